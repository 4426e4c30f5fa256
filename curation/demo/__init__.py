"""The demo: a gallery of real pictures, a troublesome server, and the whole road over both."""
