"""What a new kind of device does with the library, in one command: `--device-check`.

Each part is a file, and a function of `Limits` that yields a `Finding` as soon as it has one. Parts
import the rest of the benchmark; `check` imports the parts.
"""
