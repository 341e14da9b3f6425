"""A classic-BPF interpreter, written from the description in the kernel's Documentation/networking/filter.rst."""

from __future__ import annotations

from collections.abc import Callable

from instar.listeners.bpf import Instruction, Program

WORD = 0xFFFFFFFF
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_NETWORK, _ANCILLARY = 0xFFF00000, 0xFFFFF000


class _OutsideError(Exception):
    pass


class Machine:
    """Runs a program against one packet. `random` supplies the ancillary random word."""

    def __init__(self, network: bytes = b"", data: bytes = b"", random: Callable[[], int] = lambda: 0) -> None:
        self.network, self.data, self.random = network, data, random
        self.a = self.x = 0
        self.memory = [0] * 16

    def run(self, program: Program) -> int:
        position = 0
        while True:
            instruction = program[position]
            if instruction.code & 7 == 6:
                return self.a if instruction.code & 0x18 == 0x10 else instruction.k
            try:
                position += 1 + self._step(instruction)
            except _OutsideError:
                return 0

    def _step(self, i: Instruction) -> int:
        kind = i.code & 7
        if kind == 5:
            return self._jump(i)
        if kind == 0:
            self.a = self._load(i)
        elif kind == 1:
            assert i.code == 0xB1
            self.x = 4 * (self._bytes(i.k, 1) & 0xF)
        elif kind == 2:
            self.memory[i.k] = self.a
        else:
            assert kind == 4
            self.a = self._arithmetic(i)
        return 0

    def _load(self, i: Instruction) -> int:
        mode, size = i.code & 0xE0, _SIZES[i.code & 0x18]
        if mode == 0x60:
            return self.memory[i.k]
        if mode == 0x20 and i.k == _ANCILLARY + 56:
            return self.random() & WORD
        assert mode in (0x20, 0x40)
        return self._bytes((i.k + (self.x if mode == 0x40 else 0)) & WORD, size)

    def _bytes(self, offset: int, size: int) -> int:
        packet = self.data
        if offset >= _NETWORK:
            packet, offset = self.network, offset - _NETWORK
        if offset + size > len(packet):
            raise _OutsideError
        return int.from_bytes(packet[offset : offset + size], "big")

    def _arithmetic(self, i: Instruction) -> int:
        operation = i.code & 0xF0
        if operation == 0x00:
            return (self.a + i.k) & WORD
        if operation == 0x50:
            return self.a & i.k
        if operation == 0x70:
            return self.a >> i.k
        assert operation == 0x90
        return self.a % i.k

    def _jump(self, i: Instruction) -> int:
        operation = i.code & 0xF0
        if operation == 0x00:
            return i.k
        assert operation in (0x10, 0x30)
        holds = self.a == i.k if operation == 0x10 else self.a >= i.k
        return i.jt if holds else i.jf
