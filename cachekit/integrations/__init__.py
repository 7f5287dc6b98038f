"""cachekit in other frameworks and libraries: each module imports the one that it is named after."""
