"""The command line ``datagen``: assembles the commands and turns errors into messages and exit codes."""

from __future__ import annotations

from typing import NoReturn

from datagen import __version__
from datagen.commands import (
    browse,
    build,
    demo,
    evidence,
    export,
    fit,
    frames,
    imports,
    init,
    inspect,
    parts,
    recipe,
    report,
    share,
    warp,
)
from datagen.common.console import add_version, run
from datagen.common.help import App

app = App(
    name="datagen",
    help="Turn multi-view face captures into canonical training sets. Exit codes: 0 success, 1 verdict not met, "
    "2 wrong use or bad input, 70 a fault of this program, 130 interrupted.",
)
add_version(app, "datagen", __version__)
for group in (
    demo,
    init,
    imports,
    evidence,
    fit,
    build,
    parts,
    warp,
    frames,
    inspect,
    browse,
    share,
    export,
    report,
    recipe,
):
    group.register(app)


def main() -> NoReturn:
    """Entry point of the script ``datagen``."""
    run(app)


if __name__ == "__main__":
    main()
