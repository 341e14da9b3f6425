"""Prints docs/cli.md, made from the command line itself: `make reference`."""

from __future__ import annotations

from typing import Any

import typer.main

from instar.cli import VERBS, build

_INTRODUCTION = """\
# Command line

<!-- Made by `make reference` from the help texts in src/instar/cli. -->

Every verb finds its supervisor by the application's name, which it reads from `./instar.toml`, or from the file given
with `-c FILE`; `--name NAME` or `--state-dir DIR` serve where there is no file. A verb prints for people; with `--json`
it prints exactly one JSON object, whose keys are only ever added to (`logs` prints one object a line).

Shell completion: `instar --install-completion`.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | unexpected: a bug, or something that has no code of its own |
| 2 | wrong usage, or wrong configuration |
| 3 | rolled back: the new generation failed, the old one serves on |
| 4 | busy: a handover is running |
| 5 | no supervisor runs for this application |
| 6 | done, but a handler kept its name in the old code (`keep_name`) |
| 7 | the job did not end well (`jobs wait`) |

Errors are one sentence on standard error that begins with `instar: cannot`. `INSTAR_DEBUG=1` adds the traceback.
"""


def reference() -> str:
    """The page."""
    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    return "\n".join([_INTRODUCTION, *(_verb(name, commands[name]) for name in VERBS if name in commands)])


def _verb(name: str, command: Any) -> str:
    if not hasattr(command, "commands"):
        return _command(name, command, "##")
    parts = [f"## instar {name}", "", *_help(command.help)]
    parts += [_command(f"{name} {part}", inner, "###") for part, inner in command.commands.items()]
    return "\n".join(parts)


def _command(name: str, command: Any, heading: str) -> str:
    arguments = [_argument(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join(["instar", name, "[OPTIONS]", *arguments])
    lines = [f"{heading} instar {name}", "", f"`{usage}`", "", *_help(command.help)]
    lines += ["| option | meaning |", "|---|---|"]
    for parameter in command.params:
        if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False):
            lines.append(f"| {_names(parameter)} | {_cell(_meaning(parameter))} |")
    return "\n".join(lines) + "\n"


def _help(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b"):
            title, *examples = paragraph.lstrip("\b\n").split("\n")
            lines += [title, "", "```console", *(line.strip() for line in examples), "```", ""]
        else:
            lines += [paragraph, ""]
    return lines


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name.strip('[]')}]"


def _names(parameter: Any) -> str:
    value = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or parameter.name.upper()}"
    names = [*parameter.opts, *getattr(parameter, "secondary_opts", [])]
    return ", ".join(f"`{name}{value}`" for name in names)


def _meaning(parameter: Any) -> str:
    text = parameter.help or ""
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if isinstance(shown, str | int | float) and not isinstance(shown, bool) and shown != "":
        text += f" Default: {shown}."
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(reference(), end="")
