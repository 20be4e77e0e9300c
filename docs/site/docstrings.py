"""What griffe, which reads the docstrings, does with them."""

import griffe
from names import linked_names


class Docstrings(griffe.Extension):
    """Read `Example:` as griffe's `Examples:`, a class's `Args:` as its fields; link names."""

    def on_object(self, *, obj, **kwargs):
        """Rewrite the docstring of a function or class before it is read."""
        if obj.docstring:
            text, *examples = obj.docstring.value.split("\nExample:\n")
            text = linked_names(text, bare=True, but={obj.name, *obj.members})
            if obj.is_class:
                text = text.replace("\nArgs:\n", "\nAttributes:\n")
            obj.docstring.value = "\nExamples:\n".join([text, *examples])
