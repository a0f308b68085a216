"""The tests of one back end are run by `test_backends`, each in a process of its own."""

import os

collect_ignore = [] if os.environ.get("CLIPWISE_KERAS_TESTS") else ["on_backend"]
