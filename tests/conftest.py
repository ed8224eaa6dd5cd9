"""For all tests: what holds for every machine, however busy."""

from hypothesis import settings

# A time that one example may take would be a timing as an assertion; a busy machine breaks each.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
