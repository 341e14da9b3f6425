from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable

import pytest
from cbpf_machine import Machine
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.listeners.bpf import (
    MAX_BRANCH,
    MAX_INSTRUCTIONS,
    NETWORK_HEADER,
    Assembler,
    Instruction,
    Program,
    encode,
)

Step = Callable[[Assembler], None]
SO_ATTACH_FILTER = 26
_LENGTH = 1100  # of the datagrams; answers lie between 0 and 1024

word = st.integers(0, 2**32 - 1)
offset = st.integers(0, 70)


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, tuple[int, ...]]]:
    simple = st.one_of(
        st.tuples(st.sampled_from(["load_word", "load_half", "load_byte", "load_header_length"]), st.tuples(offset)),
        st.tuples(st.just("load_half_after_header"), st.tuples(offset)),
        st.tuples(st.sampled_from(["load_scratch", "store_scratch"]), st.tuples(st.integers(0, 15))),
        st.tuples(st.sampled_from(["add", "bits"]), st.tuples(word)),
        st.tuples(st.just("modulo"), st.tuples(st.integers(1, 2**32 - 1))),
        st.tuples(st.just("shift_right"), st.tuples(st.integers(0, 31))),
        st.tuples(
            st.sampled_from(["if_equal", "if_at_least"]), st.tuples(word, st.integers(1, 20), st.integers(0, 20))
        ),
        st.tuples(st.just("jump"), st.tuples(st.integers(1, 20))),
    )
    return draw(st.lists(simple, max_size=40))


def assemble(plan: list[tuple[str, tuple[int, ...]]]) -> Program:
    asm = Assembler()
    for index in range(16):
        asm.store_scratch(index)  # the kernel refuses a load from a word that may be unset
    last = len(plan)
    for position, (name, arguments) in enumerate(plan):
        asm.label(f"L{position}")
        if name.startswith("if_"):
            value, then, otherwise = arguments
            targets = [f"L{min(position + distance, last)}" if distance else None for distance in (then, otherwise)]
            getattr(asm, name)(value, *targets)
        elif name == "jump":
            asm.jump(f"L{min(position + arguments[0], last)}")
        else:
            getattr(asm, name)(*arguments)
    asm.label(f"L{last}")
    asm.bits(0x3FF)
    asm.add(1)
    asm.give_accumulator()
    return asm.assemble()


def kernel_answer(pair: tuple[socket.socket, socket.socket], program: Program, data: bytes) -> int:
    """A filter's answer is how much of a datagram is kept; 0 drops it."""
    sender, receiver = pair
    code = ctypes.create_string_buffer(encode(program))
    pointer = struct.pack("HP", len(program), ctypes.addressof(code))
    receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)
    sender.send(data)
    try:
        return len(receiver.recv(_LENGTH))
    except BlockingIOError:
        return 0


@settings(max_examples=300, deadline=None)
@given(plan=steps(), head=st.binary(min_size=64, max_size=64))
def test_the_kernel_and_the_interpreter_agree(plan: list[tuple[str, tuple[int, ...]]], head: bytes) -> None:
    program = assemble(plan)
    data = head.ljust(_LENGTH, b"\0")
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with left, right:
        assert kernel_answer((left, right), program, data) == Machine(data=data).run(program)


@given(st.integers(0, MAX_BRANCH), st.integers(0, 5))
def test_labels_become_distances(between: int, before: int) -> None:
    asm = Assembler()
    for _ in range(before):
        asm.add(0)
    asm.if_equal(7, then="far")
    for _ in range(between):
        asm.add(1)
    asm.label("far")
    asm.give_accumulator()
    assert asm.assemble()[before] == Instruction(0x15, between, 0, 7)


def test_a_branch_reaches_255_instructions_and_a_jump_any_distance() -> None:
    def program(name: str, between: int) -> Program:
        asm = Assembler()
        asm.jump("far") if name == "jump" else asm.if_at_least(1, otherwise="far")
        for _ in range(between):
            asm.add(1)
        asm.label("far")
        asm.give(42)
        return asm.assemble()

    assert program("branch", MAX_BRANCH)[0].jf == MAX_BRANCH
    with pytest.raises(ValueError, match="cannot branch over 256"):
        program("branch", MAX_BRANCH + 1)
    assert Machine().run(program("jump", 4000)) == 42


def test_the_number_of_instructions_is_limited() -> None:
    asm = Assembler()
    with pytest.raises(ValueError, match="cannot assemble 0 instructions"):
        asm.assemble()
    for _ in range(MAX_INSTRUCTIONS - 1):
        asm.add(1)
    with pytest.raises(ValueError, match="does not end with a return"):
        asm.assemble()
    asm.give(0)
    assert len(asm.assemble()) == MAX_INSTRUCTIONS
    asm.give(0)
    with pytest.raises(ValueError, match="4097 instructions"):
        asm.assemble()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda asm: asm.jump("nowhere"), "no such label"),
        (lambda asm: (asm.label("x"), asm.jump("x")), "only jumps forwards"),
        (lambda asm: (asm.jump("end"), asm.give(0), asm.label("end")), "only jumps forwards, inside"),
        (lambda asm: (asm.label("x"), asm.label("x")), "twice"),
        (lambda asm: asm.give(2**32), "32 bits"),
        (lambda asm: asm.bits(-1), "32 bits"),
        (lambda asm: asm.modulo(0), "zero"),
        (lambda asm: asm.load_scratch(16), "scratch word 16"),
    ],
)
def test_mistakes_are_refused(mistake: Callable[[Assembler], object], message: str) -> None:
    asm = Assembler()
    with pytest.raises(ValueError, match=message):
        mistake(asm)
        if "inside" not in message:
            asm.give(0)
        asm.assemble()


def test_negative_addition_wraps() -> None:
    asm = Assembler()
    asm.add(5)
    asm.add(-3)
    asm.give_accumulator()
    assert Machine().run(asm.assemble()) == 2


def test_encoding_is_struct_sock_filter() -> None:
    assert encode((Instruction(0x15, 1, 2, 3),)) == struct.pack("HBBI", 0x15, 1, 2, 3)


def test_a_load_outside_of_the_packet_ends_with_0() -> None:
    asm = Assembler()
    asm.load_word(NETWORK_HEADER + 4)
    asm.give(9)
    assert Machine(network=bytes(7)).run(asm.assemble()) == 0
    assert Machine(network=bytes(8)).run(asm.assemble()) == 9
