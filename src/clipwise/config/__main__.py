"""``python -m clipwise.config`` prints the JSON Schema that ``docs/clipwise.schema.json`` holds."""

import json

from clipwise.config.schema import schema

if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, ensure_ascii=False))
