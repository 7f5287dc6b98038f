"""What belongs to the definition of a class or function: namespaces, annotations, captured variables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType

from cachekit.decorator.code_version import unwrapped, wrapper_chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

#: What a namespace has besides its definition, or says twice.
LEFT_OUT: Final = frozenset(
    {
        "__dict__", "__weakref__", "__module__", "__qualname__", "__annotations__", "__annotate__",
        "__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__",
        "__slots__", "_abc_impl", "__signature__", "__private_attributes__", "__class_vars__", "__fields__",
    }
)  # fmt: skip


def captured_by_itself(function: FunctionType) -> list[object]:
    """Return the variables that the innermost function captured, with their names."""
    innermost = unwrapped(function)
    found: list[object] = []
    for name, cell in zip(innermost.__code__.co_freevars, innermost.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            value = None
        if name != "__class__" and value is not function and value is not innermost:
            found.append((name, value))
    return found


def annotations_of(thing: Any) -> dict[str, Any]:
    """Return the annotations of a class or function, without those of its bases."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return dict(annotationlib.get_annotations(thing, format=annotationlib.Format.FORWARDREF))
    found = vars(thing).get("__annotations__") if isinstance(thing, type) else thing.__annotations__
    return dict(found or {})


def beyond_code(function: FunctionType) -> dict[str, object]:
    """Return attributes that were set on a function, and a name or docstring that its code does not have."""
    held = {
        name: value
        for name, value in vars(function).items()
        if name != "__wrapped__" and type(getattr(value, "__self__", None)).__module__ != _OWN
    }
    if function.__name__ != function.__qualname__.rpartition(".")[2]:
        held["__name__"] = function.__name__
    texts = [one.__code__.co_consts[:1] for one in wrapper_chain(function)]
    if function.__doc__ is not None and (function.__doc__,) not in texts:
        held["__doc__"] = function.__doc__
    return held


_OWN: Final = "cachekit.decorator.function"


def namespace_of(kind: type) -> dict[str, object]:
    """Return what a class defines itself, by name; of a model of pydantic also its JSON schema."""
    held = {
        name: value
        for name, value in vars(kind).items()
        if name not in LEFT_OUT and not name.startswith("__pydantic_")
    }
    members = held.pop("_member_map_", None)
    if isinstance(members, dict):  # an Enum; its members are mentioned by their own text
        callables = (FunctionType, classmethod, staticmethod)
        held = {
            name: value
            for name, value in held.items()
            if name not in members and (not is_sunder(name) or isinstance(value, callables))
        }
        held["members"] = [(name, member.value) for name, member in members.items()]
    if "__dataclass_fields__" in held and str(held.get("__doc__")).startswith(f"{kind.__name__}("):
        del held["__doc__"]  # made from the fields, with the addresses of defaults
    pydantic = sys.modules.get("pydantic.main")
    if pydantic is not None and issubclass(kind, pydantic.BaseModel) and kind is not pydantic.BaseModel:
        held |= _schema(kind)
    return held


def _schema(kind: Any) -> dict[str, object]:
    # A model says what it accepts by its JSON schema, unless a field is of a class that has none.
    fields: dict[str, object] = {
        name: (field.annotation, field.default_factory, field.alias, field.exclude)
        for name, field in kind.model_fields.items()
    }
    try:
        schema = kind.model_json_schema()
    except (sys.modules["pydantic.errors"].PydanticUserError, TypeError, ValueError):
        schema = {
            name: (field.default, field.metadata, field.title, field.description)
            for name, field in kind.model_fields.items()
        }
    return {"JSON schema": schema, "fields": fields}


def is_sunder(name: str) -> bool:
    """Return whether a name is one of those that Python or enum keep for themselves."""
    return name.startswith("_") and name.endswith("_")


def package_of(module: str | None) -> str | None:
    """Return the top package of a module, if it is an installed one rather than part of the program."""
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return (module or "").partition(".")[0] if "site-packages" in file or "dist-packages" in file else None


def names_in_annotations(function: FunctionType) -> Iterator[str]:
    """Yield the annotations of a method, by names alone: what they mention may be a whole program."""
    for name, annotation in annotations_of(function).items():
        yield f"{name}:{_flat(annotation)}"


def _flat(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    arguments = getattr(annotation, "__args__", None)
    origin = getattr(annotation, "__origin__", annotation)
    name = getattr(origin, "__qualname__", None) or getattr(origin, "_name", None)
    text = name if isinstance(name, str) else type(origin).__qualname__
    if type(annotation).__name__ == "_LiteralGenericAlias":
        return f"{text}[{annotation.__args__!r}]"
    return f"{text}[{','.join(map(_flat, arguments))}]" if isinstance(arguments, tuple) else text
