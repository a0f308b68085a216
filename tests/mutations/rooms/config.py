"""Clips as texts, mappings and files."""

from tests.mutations.breaks import Break

BREAKS = [
    Break(
        "a key that is given twice",
        "src/clipwise/config/files.py",
        "        if key in found:\n",
        "        if key is found:\n",
        "tests/config/test_files.py",
    ),
    Break(
        "0 of another library clips everything away",
        "src/clipwise/config/settings.py",
        "return make(check_number(key, number)) if number else None",
        "return make(check_number(key, number))",
        "tests/config/test_settings.py",
    ),
    Break(
        "a contradiction is not seen",
        "src/clipwise/config/settings.py",
        "if len(given) > 1:",
        "if len(given) > 2:",
        "tests/config/test_settings.py",
    ),
    Break(
        "minus infinity loses its sign",
        "src/clipwise/config/write.py",
        'return "inf" if value > 0 else "-inf"',
        'return "inf"',
        "tests/config/test_strings.py tests/config/test_round_trip.py",
    ),
    Break(
        "an argument that is given twice",
        "src/clipwise/config/strings.py",
        "            if name in found:\n",
        "            if name is found:\n",
        "tests/config/test_strings.py",
    ),
]
