"""The command line."""

from tests.mutations.breaks import Break

BREAKS = [
    Break(
        "a mistake ends with 0",
        "src/clipwise/cli/__init__.py",
        '    print(f"Error: {sentence}", file=sys.stderr)\n    return 2',
        '    print(f"Error: {sentence}", file=sys.stderr)\n    return 0',
        "tests/test_cli.py -k mistake",
    ),
    Break(
        "an export replaces what is there",
        "src/clipwise/cli/export.py",
        "option.choices[bool(value)]",
        "option.choices[True]",
        "tests/monitor/exporters/test_command.py",
    ),
    Break(
        "help imports what it does not need",
        "src/clipwise/cli/commands.py",
        "import click\n",
        "import click\nimport polars  # noqa\n",
        "tests/test_cli.py -k heavy",
    ),
    Break(
        "an import of clipwise imports a framework",
        "src/clipwise/report.py",
        "from dataclasses import",
        "import torch  # noqa\nfrom dataclasses import",
        "tests/test_package.py -k 'heavy or numpy'",
    ),
]
