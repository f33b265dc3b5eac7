"""One logical step a file, with its side effects: fetch by reference, call the library, store, return a record."""
