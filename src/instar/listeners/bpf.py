"""A small assembler for classic BPF (Linux, Documentation/networking/filter.rst)."""

from __future__ import annotations

import ctypes
import dataclasses
import socket
import struct
from typing import Final, NamedTuple

#: Most instructions that the kernel takes in one program (linux/bpf_common.h, BPF_MAXINSNS).
MAX_INSTRUCTIONS: Final = 4096
#: A conditional jump has 8 bits for its distance; only `jump` reaches further.
MAX_BRANCH: Final = 255
#: Words of scratch memory (linux/filter.h, BPF_MEMWORDS).
SCRATCH_WORDS: Final = 16

#: Loads from here on read the network header, whatever the packet's data pointer is (linux/filter.h).
NETWORK_HEADER: Final = 0xFFF00000
_RANDOM: Final = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM

_SO_ATTACH_REUSEPORT_CBPF: Final = 51

_LD_WORD, _LD_HALF, _LD_BYTE = 0x20, 0x28, 0x30
_LD_HALF_X = 0x48
_LDX_HEADER_LENGTH = 0xB1
_LD_MEM, _ST = 0x60, 0x02
_ADD, _MOD, _AND, _RSH = 0x04, 0x94, 0x54, 0x74
_JA, _JEQ, _JGE = 0x05, 0x15, 0x35
_RET, _RET_A = 0x06, 0x16


class Instruction(NamedTuple):
    """One instruction (struct sock_filter): `jt` and `jf` are distances, counted from the next instruction."""

    code: int
    jt: int = 0
    jf: int = 0
    k: int = 0


Program = tuple[Instruction, ...]


@dataclasses.dataclass(frozen=True)
class _Line:
    code: int
    k: int = 0
    #: Where a jump goes if its condition holds, and if not. None: to the next instruction.
    then: str | None = None
    otherwise: str | None = None


class Assembler:
    """Collects instructions and labels; `assemble` turns labels into distances. "A" is the accumulator."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._labels: dict[str, int] = {}
        self._fresh = 0

    def fresh(self, hint: str = "") -> str:
        """A label name that nobody else uses."""
        self._fresh += 1
        return f".{hint}{self._fresh}"

    def label(self, name: str) -> None:
        """The next instruction is called `name`."""
        if name in self._labels:
            raise ValueError(f"cannot define the label {name} twice")
        self._labels[name] = len(self._lines)

    def load_word(self, offset: int) -> None:
        """A = the 32 bits at `offset`, which were in network byte order. Outside of the packet: return 0."""
        self._add(_LD_WORD, offset)

    def load_half(self, offset: int) -> None:
        """A = the 16 bits at `offset`."""
        self._add(_LD_HALF, offset)

    def load_byte(self, offset: int) -> None:
        """A = the byte at `offset`."""
        self._add(_LD_BYTE, offset)

    def load_header_length(self, offset: int) -> None:
        """X = the length in bytes of the IPv4 header that starts at `offset`."""
        self._add(_LDX_HEADER_LENGTH, offset)

    def load_half_after_header(self, offset: int) -> None:
        """A = the 16 bits at `offset` + X."""
        self._add(_LD_HALF_X, offset)

    def load_random(self) -> None:
        """A = 32 random bits."""
        self._add(_LD_WORD, _RANDOM)

    def load_scratch(self, index: int) -> None:
        """A = scratch word `index`."""
        self._add(_LD_MEM, _scratch(index))

    def store_scratch(self, index: int) -> None:
        """Scratch word `index` = A."""
        self._add(_ST, _scratch(index))

    def add(self, value: int) -> None:
        """A += `value`, modulo 2**32 (so that it may be negative)."""
        self._add(_ADD, value % 2**32)

    def modulo(self, value: int) -> None:
        """A %= `value`."""
        if value == 0:
            raise ValueError("cannot divide by zero in a BPF program")
        self._add(_MOD, value)

    def bits(self, mask: int) -> None:
        """A &= `mask`."""
        self._add(_AND, mask)

    def shift_right(self, bits: int) -> None:
        """A >>= `bits`."""
        self._add(_RSH, bits)

    def jump(self, label: str) -> None:
        """Go on at `label`, however far."""
        self._lines.append(_Line(_JA, then=label))

    def if_equal(self, value: int, then: str | None = None, otherwise: str | None = None) -> None:
        """Go to `then` if A == `value`, else to `otherwise`; None is the next instruction."""
        self._add(_JEQ, value, then, otherwise)

    def if_at_least(self, value: int, then: str | None = None, otherwise: str | None = None) -> None:
        """Go to `then` if A >= `value` (unsigned), else to `otherwise`."""
        self._add(_JGE, value, then, otherwise)

    def give(self, value: int) -> None:
        """End: the program's answer is `value`."""
        self._add(_RET, value)

    def give_accumulator(self) -> None:
        """End: the program's answer is A."""
        self._add(_RET_A)

    def assemble(self) -> Program:
        """The program, checked against the kernel's limits. Raises ValueError."""
        if not 0 < len(self._lines) <= MAX_INSTRUCTIONS:
            raise ValueError(
                f"cannot assemble {len(self._lines)} instructions: the kernel takes 1 to {MAX_INSTRUCTIONS}"
            )
        if self._lines[-1].code not in (_RET, _RET_A):
            raise ValueError("cannot assemble a program that does not end with a return")
        return tuple(self._resolve(position, line) for position, line in enumerate(self._lines))

    def _add(self, code: int, k: int = 0, then: str | None = None, otherwise: str | None = None) -> None:
        if not 0 <= k < 2**32:
            raise ValueError(f"cannot encode {k}: a BPF operand has 32 bits")
        self._lines.append(_Line(code, k, then, otherwise))

    def _resolve(self, position: int, line: _Line) -> Instruction:
        if line.code == _JA:
            return Instruction(_JA, k=self._distance(position, line.then))
        jt, jf = self._distance(position, line.then), self._distance(position, line.otherwise)
        if max(jt, jf) > MAX_BRANCH:
            raise ValueError(f"cannot branch over {max(jt, jf)} instructions: the limit is {MAX_BRANCH}")
        return Instruction(line.code, jt, jf, line.k)

    def _distance(self, position: int, label: str | None) -> int:
        if label is None:
            return 0
        if label not in self._labels:
            raise ValueError(f"cannot jump to {label}: no such label")
        target = self._labels[label]
        if not position < target < len(self._lines):
            raise ValueError(f"cannot jump from {position} to {target}: BPF only jumps forwards, inside of the program")
        return target - position - 1


def _scratch(index: int) -> int:
    if not 0 <= index < SCRATCH_WORDS:
        raise ValueError(f"cannot use scratch word {index}: there are {SCRATCH_WORDS}")
    return index


def encode(program: Program) -> bytes:
    """The program as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def attach(sock: socket.socket, program: Program) -> None:
    """Make `program` choose, for each new connection to the reuseport group of `sock`, the index that accepts it.

    One atomic replacement (socket(7), SO_ATTACH_REUSEPORT_CBPF); needs no privilege. Raises OSError.
    """
    # The kernel copies the program during the call; `code` only has to outlive it.
    code = ctypes.create_string_buffer(encode(program))
    pointer = struct.pack("@HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, pointer)
