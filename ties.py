"""Ties the fast forms to the readable code that they repeat, so that an edit of it always takes effect.

kernels.py and conv_kernels.py repeat cells.py and cnns.py in a faster way. ties.json holds a digest of
each definition that they repeat. Whenever TensorFlow traces a step, `hold` compares the loaded code with
these digests. If they differ, the readable form runs, and one line on stderr says why.

After you change a readable form and its fast form alike, run tests/test_kernels.py. Then write the new
digests: python3 kernels.py
"""

import ast
import functools
import hashlib
import json
import pathlib
import sys
import types

TABLE = pathlib.Path(__file__).resolve().with_suffix(".json")

# The fast forms call these and do not repeat them, so they may change.
FREE = {"cells.Gaussian.noise", "cells.Gaussian.kl", "cells.Gaussian.entropy", "cells.Cell.noise",
        "cells.Cell.sizes", "cells.RSSMCell.noise", "cells.RSSMCell.sizes"}

FORMS = {}  # fast class: (the definitions that it repeats, its own attributes as they were written)
_said = set()


def repeats(*names):
    """Marks a class as the fast form of its base class.

    names: the definitions that it repeats. The name of a class, such as cells.RSSMCell, stands for all
    of its methods.
    """
    def mark(fast):
        FORMS[fast] = names, dict(vars(fast))
        return fast

    return mark


def hold(part):
    """Whether the fast form of a part of a model equals its readable form. If not, a line says why."""
    reason = difference(part)
    if reason and (part.name, reason) not in _said:
        _said.add((part.name, reason))
        print(f"{part.name} runs in its plain form: {reason}", file=sys.stderr)
    return reason is None


def difference(part):
    """The first difference between a part and the code that its fast form repeats, or None."""
    fast = type(part)
    if fast not in FORMS:
        return f"{fast.__name__} has no fast form"
    names, written = FORMS[fast]
    methods = {name.rsplit(".", 1)[1] for name in tied_names(names)}
    plain = fast.__base__.__name__
    return (first(_definition_differs(name) for name in tied_names(names))
            or first(f"{plain}.{name} was replaced" for name, value in vars(fast).items()
                     if name in {*written, *methods} and written.get(name) is not value)
            or first(f"{name} was replaced on this object" for name in vars(part) if name in methods)
            or _layers_differ(part.layers_as_built))


def _layers_differ(layers):
    """How one of (layer, class, activation, kernel size) differs from the built layer; or None."""
    dtype = layers[0][0].compute_dtype
    for layer, kind, activation, size in layers:
        if type(layer) is not kind:
            return f"{layer.name} is a {type(layer).__name__}, not a {kind.__name__}"
        if activation and layer.activation is not activation:
            return f"the activation of {layer.name} was replaced"
        if layer.compute_dtype != dtype or layer.kernel.dtype != "float32":
            return f"the dtype of {layer.name} was changed"
        if size and (layer.strides != (2, 2) or layer.kernel.shape[:2] != (size, size)):
            return f"the kernel or the strides of {layer.name} were changed"
    return None


def first(values):
    """The first value that is not None, or None."""
    return next((value for value in values if value is not None), None)


# ----------------------------------------------------------------------------------- definitions


@functools.cache
def tied_names(names):
    """The names in the table that belong to definitions, a list. A class stands for its methods."""
    return [entry for entry in table()
            if any(entry == name or entry.startswith(f"{name}.") for name in names)]


@functools.cache
def table():
    """The digests of the definitions that the fast forms repeat: {"cells.RSSMCell.tick": digest}."""
    return json.loads(TABLE.read_text())


def _definition_differs(name):
    """How the loaded definition differs from the one in the table, or None."""
    module, path = name.split(".", 1)
    source = loaded_source(module)
    if source is None:
        return f"the source of {module}.py cannot be read"
    digests, codes = source
    if digests.get(path) != table()[name]:
        return f"{path} was edited"
    *owner, last = path.split(".")
    live = vars(sys.modules[module]).get(owner[0] if owner else last)
    if owner:
        live = vars(live).get(last) if isinstance(live, type) else None
    if path not in codes:  # a namedtuple
        return None
    if isinstance(live, type):
        return _added(live, module, path)
    return None if _is(live, codes[path], module) else f"{path} was replaced"


def _is(live, code, module):
    """Whether a function, method or property was made from a code object."""
    for attribute in ("__func__", "fget", "func"):
        live = getattr(live, attribute, live)
    return (isinstance(live, types.FunctionType) and live.__code__ == code
            and live.__globals__ is vars(sys.modules[module])
            and {*(live.__defaults__ or ()), *(live.__kwdefaults__ or {}).values()} <= {None})


def _added(live, module, path):
    """Names an attribute that was added to a class and hides an inherited one; or None."""
    known = {*table(), *FREE}
    added = (name for name, value in vars(live).items()
             if (callable(value) or isinstance(value, (property, classmethod, staticmethod)))
             and not isinstance(value, type) and f"{module}.{path}.{name}" not in known
             and any(name in vars(base) for base in live.__mro__[1:]))
    return first(f"{path}.{name} was added" for name in added)


@functools.cache
def loaded_source(module):
    """The digests and the compiled code of a module's definitions, by their qualified names.

    None if the source cannot be read. The file may be newer than the loaded code, so a digest counts
    only if the compiled code equals the code of the loaded function.
    """
    try:
        file = sys.modules[module].__file__
        text = pathlib.Path(file).read_text()
        return digests_of(text), dict(_codes(compile(text, file, "exec", dont_inherit=True)))
    except (OSError, ValueError, SyntaxError, AttributeError, TypeError):
        return None


def _codes(code, owner=""):
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield owner + constant.co_name, constant
            yield from _codes(constant, f"{owner}{constant.co_name}.")


def digests_of(text):
    """A digest of each definition in a module's text, without comments and docstrings.

    Each method of a class has one, and so has the rest of the class, under its own name.
    """
    found = {}
    for node in ast.parse(text).body:
        for name, definition in _definitions(node):
            found[name] = hashlib.sha256(_spelled(definition).encode()).hexdigest()[:16]
    return found


def _definitions(node):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node.name, node
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield ast.unparse(target), node
    elif isinstance(node, ast.ClassDef):
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        for method in methods:
            yield f"{node.name}.{method.name}", method
        rest = [item for item in node.body if item not in methods]
        yield node.name, ast.ClassDef(
            node.name, node.bases, node.keywords, rest, node.decorator_list)


def _spelled(node):
    """A syntax tree as text that is the same in every version of Python."""
    if isinstance(node, ast.Constant):
        return repr(node.value)
    if isinstance(node, list):
        return f"[{', '.join(map(_spelled, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        fields["body"] = [item for item in node.body if not _is_text(item)]
    return f"{type(node).__name__}(" + ", ".join(
        f"{name}={_spelled(value)}" for name, value in fields.items()
        if name != "ctx" and value is not None and value != []) + ")"


def _is_text(node):
    """Whether a statement is a text alone, such as a docstring, which does nothing."""
    return (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str))


def current_table():
    """The table of digests of the files as they are now."""
    found = {}
    for names, _ in FORMS.values():
        for name in names:
            module, path = name.split(".", 1)
            text = pathlib.Path(sys.modules[module].__file__).read_text()
            found |= {f"{module}.{entry}": digest for entry, digest in digests_of(text).items()
                      if entry == path or entry.startswith(f"{path}.")}
    return {name: found[name] for name in sorted(found) if name not in FREE}


def write():
    """Writes the table anew. Only kernels.py, which has imported all fast forms, calls it."""
    TABLE.write_text(json.dumps(current_table(), indent=1) + "\n")
    print(f"{TABLE.name}: {len(current_table())} definitions")
