"""The BPF programs that make the kernel decide as a filter's policy does. The only importer of pyseccomp.

Two programs are made, to be loaded one after the other, since libseccomp cannot express "allowed unless (argument &
mask) == value" in a filter whose default is to refuse; the kernel takes the more restrictive answer of the two:

1. argument rules: everything passes except what a rule names (EPERM);
2. allow-list: what is allowed passes, known syscalls that are not get EPERM, unknown numbers ENOSYS.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Any

from sandbox import bpf
from sandbox.errors import InternalError, PlanError, UnsupportedError, UsageError
from sandbox.filter_rules import argument_rules, asking_rules
from sandbox.filtering import FilterPolicy, decide, verdict_of
from sandbox.plan import GATE_LENGTH
from sandbox.syscall_table import NUMBERS
from sandbox.syscalls import ENOSYS_ALWAYS


def compile(policy: FilterPolicy) -> tuple[bytes, ...]:  # noqa: A001 - the verb for policy -> program
    """Return the programs (arrays of struct sock_filter) but for the one that asks, in the order to load them in.

    The second refuses seccomp(2) unless it is allowed, so anything else that is to be loaded comes before it; the
    first refuses SECCOMP_FILTER_FLAG_NEW_LISTENER, so a filter with a listener comes before both.

    Establishes: the kernel will accept each program, and for every syscall of the table with zero arguments they
    decide as `decide` does. (For all other calls that is what the tests show.)
    Raises: UnsupportedError if libseccomp is missing, too old, or not for x86-64; UsageError if so many reserved
    numbers are scattered that no program could hold them; InternalError if libseccomp miscompiled.
    """
    return compile_stack(policy)[-2:]


def compile_stack(policy: FilterPolicy) -> tuple[bytes, ...]:
    """Return compile()'s programs, before them, if there is a supervisor, the one by which it is asked.

    That one stands behind the exec gate's, in one filter. Establishes, raises: as compile().
    """
    library = _library()
    try:
        programs = (_compile_argument_rules(library, policy), _compile_allow_list(library, policy))
        asking = (_compile_asking_rules(library, policy),) if policy.supervised else ()
    except OSError as error:
        raise InternalError("filter", f"libseccomp refused a rule: {error}") from error
    if any(len(program) // 8 > bpf.MAX_INSTRUCTIONS for program in programs):
        hint = "use fewer grants, or let their numbers be chosen: neighbouring ones take less"
        raise UsageError("filter", "too many scattered numbers are reserved", hint)
    if any(len(program) // 8 > bpf.MAX_INSTRUCTIONS - GATE_LENGTH for program in asking):
        raise InternalError("filter", "the program that asks the supervisor is too long")
    stack = (*asking, *programs)
    _verify(policy, stack)
    return stack


def _compile_asking_rules(library: Any, policy: FilterPolicy) -> bytes:  # noqa: ANN401
    program = _new_filter(library, library.ALLOW)
    for rule in asking_rules(policy):
        conditions = [library.Arg(c.arg, library.MASKED_EQ, c.mask, c.value) for c in rule.conditions]
        program.add_rule(library.NOTIFY, _number(library, rule.syscall), *conditions)
    return _export(program)


def _library() -> Any:  # noqa: ANN401 - pyseccomp has no types
    hint = "install libseccomp2 and pyseccomp"
    try:
        # Here and not on top: it looks for the C library by running programs, which takes longer than all the rest.
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:  # OSError: nowhere to put a temporary file
        raise UnsupportedError("filter", "libseccomp 2.5 and pyseccomp", str(error), hint) from error
    if (arch := pyseccomp.system_arch()) != bpf.AUDIT_ARCH_X86_64:
        raise UnsupportedError("filter", "an x86-64 machine", f"architecture {arch:#x}")
    try:
        pyseccomp.SyscallFilter(pyseccomp.ALLOW).set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    except OSError as error:
        raise UnsupportedError("filter", "libseccomp 2.5", "an older one", hint) from error
    return pyseccomp


def _compile_argument_rules(library: Any, policy: FilterPolicy) -> bytes:  # noqa: ANN401
    program = _new_filter(library, library.ALLOW)
    for rule in argument_rules(policy):
        conditions = [library.Arg(c.arg, library.MASKED_EQ, c.mask, c.value) for c in rule.conditions]
        program.add_rule(library.ERRNO(errno.EPERM), _number(library, rule.syscall), *conditions)
    return _export(program)


def _compile_allow_list(library: Any, policy: FilterPolicy) -> bytes:  # noqa: ANN401
    program = _new_filter(library, library.ERRNO(errno.ENOSYS))
    for name in NUMBERS:
        if name not in ENOSYS_ALWAYS:
            action = library.ALLOW if name in policy.allow else library.ERRNO(errno.EPERM)
            program.add_rule(action, _number(library, name))
    return _export(program)


def _new_filter(library: Any, default: int) -> Any:  # noqa: ANN401
    program = library.SyscallFilter(default)
    program.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.EPERM))
    program.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a binary tree: about 15 steps instead of up to 380
    return program


def _number(library: Any, name: str) -> int:  # noqa: ANN401
    """Return the table's number, having asked libseccomp for its own.

    By name it would not do: libseccomp gives -1 for a name newer than itself, and for a foreign one a negative pseudo
    number, and takes both for a rule without complaint.
    """
    number, known = NUMBERS[name], library.resolve_syscall(library.Arch.X86_64, name)
    if known >= 0 and known != number:
        raise InternalError("filter", f"{name} is {number} in our table and {known} in libseccomp")
    return number


def _export(program: Any) -> bytes:  # noqa: ANN401
    with os.fdopen(os.memfd_create("filter", os.MFD_CLOEXEC), "r+b") as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


def _verify(policy: FilterPolicy, programs: Iterable[bytes]) -> None:
    """Raise InternalError if the programs are not what the policy says; libseccomp has had bugs that weaken filters."""
    try:
        decoded = [bpf.validate(bpf.decode(program)) for program in programs]
    except PlanError as error:
        raise InternalError("filter", f"libseccomp made an invalid program: {error.reason}") from error
    for name, number in NUMBERS.items():
        data = bpf.SeccompData(number)
        verdict = verdict_of(bpf.combine(bpf.run(program, data) for program in decoded))
        if verdict != (wanted := decide(policy, data.arch, number, data.args)):
            raise InternalError("filter", f"libseccomp made {verdict} of {wanted} for {name}")
