"""The protocol byte for byte: against the kernel's header where this machine has it, and against written-out bytes."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mount.drivers.kernel import negotiation, protocol, replies
from mount.drivers.kernel.protocol import LAYOUTS, Layout, Malformed
from mount.tree import Attrs

HEADER = Path("/usr/include/linux/fuse.h")

# Sizes in bytes, as of Linux 6.18 on every machine: what the header on this one may be too old for.
SIZES = {
    "fuse_in_header": 40,
    "fuse_out_header": 16,
    "fuse_attr": 88,
    "fuse_statx": 256,
    "fuse_sx_time": 16,
    "fuse_kstatfs": 80,
    "fuse_entry_out": 128,
    "fuse_attr_out": 104,
    "fuse_statx_in": 24,
    "fuse_statx_out": 288,
    "fuse_open_out": 16,
    "fuse_init_in": 64,
    "fuse_init_out": 64,
    "fuse_dirent": 24,
    "fuse_backing_map": 16,
    "fuse_read_in": 40,
    "fuse_write_in": 40,
    "fuse_setattr_in": 88,
    "fuse_copy_file_range_in": 56,
    "fuse_copy_file_range_out": 8,
    "fuse_setxattr_in": 16,
    "fuse_notify_inval_entry_out": 16,
    "fuse_notify_inval_inode_out": 24,
    "fuse_notify_delete_out": 24,
    "fuse_notify_store_out": 24,
    "fuse_syncfs_in": 8,
}
# Room for later use, which later headers gave names to.
FILLING = ("unused", "padding", "spare", "dummy")


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_sizes(name: str, size: int) -> None:
    """As the header has them."""
    assert LAYOUTS[name].size == size


def test_no_layout_needs_padding() -> None:
    """The compiler adds none to structures whose fields are aligned, and that are whole multiples of 8 bytes."""
    for layout in LAYOUTS.values():
        for field, offset in layout.offsets():
            code = dict(layout.fields)[field]
            assert offset % struct.calcsize(f"={code[-1]}") == 0, (layout.name, field)
        assert layout.size % 8 == 0, layout.name


@pytest.fixture(scope="module")
def header() -> str:
    """The header of this machine."""
    if not HEADER.exists():
        pytest.skip("the kernel's header is not installed")
    return HEADER.read_text()


def declared(header: str, layout: Layout) -> list[str]:
    """The fields of a layout that this header has too, by their C names."""
    found = re.search(rf"struct {layout.name} {{(.*?)\n}};", header, re.DOTALL)
    if found is None:
        return []
    named = [field for field, _ in layout.fields if field not in FILLING]
    return [field for field in named if re.search(rf"\b{re.escape(field.split('.')[0])}\b", found[1])]


def test_against_the_header_by_the_compiler(header: str, tmp_path: Path) -> None:
    """sizeof and offsetof of everything that the installed header knows."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    lines, expected = [], []
    for layout in LAYOUTS.values():
        fields = declared(header, layout)
        if not fields:
            continue
        if len(fields) == len([field for field, _ in layout.fields if field not in FILLING]):
            lines.append(f'printf("%zu\\n", sizeof(struct {layout.name}));')
            expected.append((layout.name, layout.size))
        offsets = dict(layout.offsets())
        for field in fields:
            lines.append(f'printf("%zu\\n", offsetof(struct {layout.name}, {field}));')
            expected.append((f"{layout.name}.{field}", offsets[field]))
    assert len(expected) > 150
    program = "#include <stddef.h>\n#include <stdio.h>\n#include <linux/fuse.h>\nint main(void) {\n"
    (tmp_path / "print.c").write_text(program + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run([compiler, "-o", tmp_path / "print", tmp_path / "print.c"], check=True)
    printed = subprocess.run([tmp_path / "print"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    found = [(name, int(number)) for (name, _), number in zip(expected, printed, strict=True)]
    assert found == expected


def test_numbers_against_the_header(header: str) -> None:
    """Every opcode and flag that the installed header knows has its value."""
    values = {name: int(number) for name, number in re.findall(r"^\s+(FUSE_\w+)\s*=\s*(\d+),", header, re.MULTILINE)}
    flag = r"^#define\s+((?:FUSE|FOPEN|FATTR)_\w+)\s+\(1(?:ULL)? << (\d+)\)"
    for name, bits in re.findall(flag, header, re.MULTILINE):
        values[name] = 1 << int(bits)
    ours = {name: value for name, value in vars(protocol).items() if isinstance(value, int) and name in values}
    assert len(ours) > 100
    assert ours == {name: values[name] for name in ours}


def test_ioctls() -> None:
    """As _IOR and _IOW make them."""
    assert protocol.FUSE_DEV_IOC_CLONE == 0x8004E500
    assert protocol.FUSE_DEV_IOC_BACKING_OPEN == 0x4010E501
    assert protocol.FUSE_DEV_IOC_BACKING_CLOSE == 0x4004E502


@pytest.mark.skipif(os.sys.byteorder != "little", reason="the bytes are written out for little-endian machines")  # type: ignore[attr-defined]
def test_an_entry_byte_for_byte() -> None:
    """The reply to a LOOKUP, written out."""
    time_ns = 3_000_000_007
    attrs = Attrs(0x1122, 0o100644, 0x10005, time_ns, time_ns, time_ns, 1, 2, 3, 129, os.makedev(8, 300))
    expected = bytes.fromhex(
        "7700000000000000"  # nodeid
        "0000000000000000"  # generation
        "0100000000000000"  # entry_valid
        "0200000000000000"  # attr_valid
        "0065cd1d"  # entry_valid_nsec
        "00000000"  # attr_valid_nsec
        "2211000000000000"  # ino
        "0500010000000000"  # size
        "8100000000000000"  # blocks
        "030000000000000003000000000000000300000000000000"  # atime, mtime, ctime
        "070000000700000007000000"  # their nanoseconds
        "a4810000"  # mode
        "03000000"  # nlink
        "01000000"  # uid
        "02000000"  # gid
        "2c081000"  # rdev: minor 300 in the bits 0-7 and 20 up, major 8 in 8-19
        "00100000"  # blksize
        "00000000"  # flags
    )
    assert replies.entry_out(0x77, attrs, replies.Validity.of(1.5), replies.Validity.of(2)) == expected


@pytest.mark.parametrize("mode", [0o100644, 0o040755, 0o120777])
@given(
    numbers=st.tuples(*[st.integers(0, 2**63 - 1)] * 3), time_ns=st.integers(-(2**62), 2**62), owner=st.integers(0, 9)
)
def test_a_lasting_entry_is_the_same(mode: int, numbers: tuple[int, int, int], time_ns: int, owner: int) -> None:
    """What is packed at once is what is made from attributes."""
    nodeid, ino, size_bytes = numbers
    blocks = -(-size_bytes // 512) if mode == 0o100644 else 0
    attrs = Attrs(ino, mode, size_bytes, time_ns, time_ns, time_ns, owner, owner + 1, 1, blocks)
    assert replies.lasting_entry_out(nodeid, ino, mode, size_bytes, time_ns, owner, owner + 1) == replies.entry_out(
        nodeid, attrs, replies.FOREVER, replies.FOREVER
    )


@given(
    found=st.lists(
        st.tuples(
            st.integers(1, 2**63 - 1),
            st.tuples(
                st.integers(1, 2**63 - 1),
                st.sampled_from([0o100644, 0o040755, 0o120777]),
                st.integers(0, 2**62),
                st.sampled_from([-(2**62), -1, 0, 1_700_000_000_000_000_001]),
            ),
            st.binary(min_size=1, max_size=255),
        ),
        max_size=20,
    ),
    offset=st.integers(0, 2**32),
)
def test_many_named_entries_are_the_same(
    found: list[tuple[int, tuple[int, int, int, int], bytes]], offset: int
) -> None:
    """What is packed in one call is what is packed one by one, and takes the room that is reckoned with."""
    expected = b""
    for number, (nodeid, (ino, mode, size_bytes, mtime_ns), name) in enumerate(found, offset + 1):
        expected += replies.lasting_entry_out(nodeid, ino, mode, size_bytes, mtime_ns, 1, 2)
        expected += protocol.pack_dirent(name, ino, number, mode)
    columns = [[row[column] for row in found] for column in range(3)]
    parts = replies.named_entries(columns[0], columns[1], columns[2], offset, 1, 2)
    assert b"".join(parts) == expected
    assert len(expected) == sum(protocol.fuse_direntplus.size + (len(name) + 7 & -8) for name in columns[2])


def test_times_before_1970() -> None:
    """Are negative seconds, and a positive part of a second."""
    attrs = Attrs(1, 0o100644, 0, -1, -1_500_000_000, 7, 0, 0)
    fields = protocol.fuse_attr_out.unpack_from(replies.attr_out(attrs, replies.NOT_AT_ALL))
    names = [name for name, _ in protocol.fuse_attr_out.fields]
    told = dict(zip(names, fields, strict=True))
    assert (told["attr.mtime"], told["attr.mtimensec"]) == ((1 << 64) - 1, 999_999_999)
    assert (told["attr.ctime"], told["attr.ctimensec"]) == ((1 << 64) - 2, 500_000_000)
    assert (told["attr.atime"], told["attr.atimensec"]) == (0, 7)


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (1, 3), (8, 300), (4095, 0xFFFFF), (259, 5)])
def test_devices(major: int, minor: int) -> None:
    """A device number comes back from the kernel's form."""
    assert protocol.decode_device(protocol.encode_device(os.makedev(major, minor))) == os.makedev(major, minor)


def hello(major: int, minor: int, flags: int, size: int = 64) -> memoryview:
    """The body of an INIT."""
    low, high = flags & 0xFFFFFFFF, flags >> 32
    return memoryview(protocol.fuse_init_in.pack(major, minor, 1 << 20, low, high, *([0] * 11))[:size])


@pytest.mark.parametrize("lends_stacked", [False, True])
def test_negotiation_with_linux_6_18(lends_stacked: bool) -> None:
    """D5: everything wanted that is offered, and passthrough over a disk, or over an overlay if that is needed."""
    agreed = negotiation.agree(hello(7, 45, (1 << 43) - 1), lends_stacked=lends_stacked)
    assert agreed is not None
    assert agreed.flags == negotiation.WANTED
    names = [name for name, _ in protocol.fuse_init_out.fields]
    fields = dict(zip(names, protocol.fuse_init_out.unpack_from(agreed.reply), strict=False))
    assert (fields["minor"], fields["max_write"], fields["max_pages"]) == (45, 1 << 20, 256)
    assert fields["max_stack_depth"] == (2 if lends_stacked else 1)
    assert fields["flags"] | fields["flags2"] << 32 == negotiation.WANTED


def test_negotiation_with_linux_5_4() -> None:
    """Its hello is short, and it knows nothing of flags2."""
    agreed = negotiation.agree(hello(7, 31, (1 << 27) - 1, size=16))
    assert agreed is not None
    assert agreed.minor == 31
    assert agreed.flags >> 27 == 0
    assert agreed.flags & protocol.FUSE_DO_READDIRPLUS
    assert protocol.fuse_init_out.unpack_from(agreed.reply)[12] == 0


def test_negotiation_with_others() -> None:
    """An older one is refused, a newer major version is asked to say hello again, a short message is none."""
    assert negotiation.agree(hello(7, 30, 0)) is None
    assert negotiation.agree(hello(6, 45, 0)) is None
    later = negotiation.agree(hello(8, 0, 0))
    assert later is not None
    assert not later.is_final
    with pytest.raises(Malformed):
        negotiation.agree(memoryview(b"1234"))
    newer = negotiation.agree(hello(7, 99, (1 << 62) - 1))
    assert newer is not None
    assert newer.minor == protocol.FUSE_KERNEL_MINOR_VERSION


def test_names() -> None:
    """Ended by NUL, of any bytes."""
    assert protocol.read_names(b"a\0b\xff\0", 2) == ["a", "b\udcff"]
    for broken in (b"", b"a", b"a\0b"):
        with pytest.raises(Malformed):
            protocol.read_names(broken, 2)


def test_directory_entries() -> None:
    """Padded to 8 bytes each."""
    packed = protocol.pack_dirent(b"name", 5, 9, 0o040755)
    assert packed == struct.pack("=QQII", 5, 9, 4, 4) + b"name\0\0\0\0"
    for length in range(1, 20):
        name = b"x" * length
        assert len(protocol.pack_dirent(name, 1, 1, 0o100644)) == protocol.fuse_dirent.size + (len(name) + 7 & -8)


def test_every_kernel_has_a_version() -> None:
    """From the oldest to the newest, without a gap."""
    assert list(protocol.KERNELS) == list(range(protocol.OLDEST_MINOR_VERSION, protocol.FUSE_KERNEL_MINOR_VERSION + 1))
