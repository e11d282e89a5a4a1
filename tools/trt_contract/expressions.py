"""What an expression of ours is: a library's module, class, instance or callable, something of ours, or unknown."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from trt_contract import typetexts
from trt_contract.guards import Guards, Key, held
from trt_contract.program import CONSTRUCTOR, Bound, Class, Later, Lib, Own, Program, Several, Value
from trt_contract.scope import Scope, Sink

Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


class Expressions(ABC):
    """Evaluates expressions, and walks all of each: whatever is in it is looked up."""

    def __init__(self, program: Program, sink: Sink) -> None:
        self.program, self.sink = program, sink
        self.parameters: dict[tuple[str, str], Value] = {}
        self.fields: dict[tuple[str, str], Value] = {}

    @abstractmethod
    def run(self, key: str, given: Mapping[str, Value]) -> Value | None:
        """Walk one of our functions with these arguments; what it returns."""

    @abstractmethod
    def bind(self, target: ast.expr, value: Value | None, scope: Scope) -> None:
        """Assign."""

    def value(self, node: ast.expr, scope: Scope) -> Value | None:
        """What `node` is."""
        match node:
            case ast.Name():
                ours = self.program.defined(scope.module, node.id)
                return scope.find(node.id) or ours or self.program.convention(node.id)
            case ast.Attribute():
                return self._attribute(node, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.Constant():
                if isinstance(node.value, str):
                    self.sink.text(node)
                return None
            case ast.Await() | ast.Starred():
                return self.value(node.value, scope)
            case ast.NamedExpr():
                found = self.value(node.value, scope)
                self.bind(node.target, found, scope)
                return found
            case ast.Tuple() | ast.List():
                return Several(tuple(self.value(each, scope) for each in node.elts))
            case ast.IfExp():
                self.value(node.test, scope)
                one = self._value_with(node.body, scope, self.held(node.test, scope, True))
                other = self._value_with(node.orelse, scope, self.held(node.test, scope, False))
                return one or other
            case ast.BoolOp():
                return self._either(node, scope)
            case ast.Subscript():
                base = self.value(node.value, scope)
                self.value(node.slice, scope)
                index = node.slice.value if isinstance(node.slice, ast.Constant) else None
                return self.item(base, index if isinstance(index, int) else None)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node, scope)
            case ast.Lambda():
                found = self.value(node.body, scope.inner({each.arg: None for each in node.args.args}))
                return Later(found) if found is not None else None
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child, scope)
                return None

    def held(self, test: ast.expr, scope: Scope, truth: bool) -> Guards:
        """What must exist where `test` came out as `truth`."""
        return held(test, truth, lambda node: self.value(node, scope))

    def guard_of(self, node: ast.Attribute, base: Lib, scope: Scope) -> str | None:
        """By what a missing attribute is caught here."""
        return scope.guards.cover(Key.of(node.value, base, node.attr))

    def learn(self, known: dict[tuple[str, str], Value], key: tuple[str, str], value: Value | None) -> None:
        """Keep the first thing that is known of a field or parameter."""
        if value is not None:
            known.setdefault(key, value)

    def item(self, value: Value | None, index: int | None = None) -> Value | None:
        """What iterating or indexing gives."""
        if isinstance(value, Several):
            if index is None:
                return value.values[0] if len(set(value.values)) == 1 else None
            return value.values[index] if -len(value.values) <= index < len(value.values) else None
        if not isinstance(value, Lib):
            return None
        found = typetexts.item(value.type, index)
        if found == typetexts.ANY and value.library.knows(value.type):
            for api in value.library.apis:
                get = api.attribute(value.type, "__getitem__")
                if get and get.calls:
                    found = api.resolve(get.calls[0].returns)
                    break
        return typed(value, found)

    def annotation(self, node: ast.expr | None, scope: Scope) -> Value | None:
        """The instance that an annotation promises; None where it is neither a library's nor ours."""
        match node:
            case ast.Constant(value=str(text)):
                try:
                    return self.annotation(ast.parse(text, mode="eval").body, scope)
                except SyntaxError:
                    return None
            case ast.BinOp():
                return self.annotation(node.left, scope) or self.annotation(node.right, scope)
            case ast.Subscript():
                return self._generic(node, scope)
            case ast.Name() | ast.Attribute():
                if id(node) not in self.program.places:
                    self.program.places.update({id(each): scope.module for each in ast.walk(node)})
                value = self.value(node, scope)
                if isinstance(value, Lib) and value.type.startswith("type["):
                    return Lib(value.library, value.name, value.type[5:-1])
                return Own("instance", value.key) if isinstance(value, Own) and value.kind == "class" else None
            case _:
                return None

    def _generic(self, node: ast.Subscript, scope: Scope) -> Value | None:
        head = ast.unparse(node.value).rpartition(".")[2]
        items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        found = [self.annotation(each, scope) for each in items]
        open_ended = "..." in ast.unparse(node.slice)
        if head == "tuple" and not open_ended:
            return Several(tuple(found))
        if head in ("Optional", "Final", "ClassVar", "Annotated"):
            return found[0]
        holds = head.lower() in ("list", "sequence", "iterator", "iterable", "set", "frozenset", "tuple")
        first = found[0] if found else None
        return typed(first, f"list[{first.type}]") if holds and isinstance(first, Lib) else None

    def _value_with(self, node: ast.expr, scope: Scope, more: Guards) -> Value | None:
        before = scope.guards
        scope.guards = before | more
        found = self.value(node, scope)
        scope.guards = before
        return found

    def _either(self, node: ast.BoolOp, scope: Scope) -> Value | None:
        found, more = [], Guards()
        for each in node.values:
            found.append(self._value_with(each, scope, more))
            more = more | self.held(each, scope, isinstance(node.op, ast.And))
        return next((each for each in found if each is not None), None)

    def _comprehension(self, node: Comprehension, scope: Scope) -> Value | None:
        inner = scope.inner({})
        for each in node.generators:
            self.bind(each.target, self.item(self.value(each.iter, inner)), inner)
            for test in each.ifs:
                self.value(test, inner)
                inner.guards = inner.guards | self.held(test, inner, True)
        if isinstance(node, ast.DictComp):
            self.value(node.key, inner)
            self.value(node.value, inner)
            return None
        found = self.value(node.elt, inner)
        return typed(found, f"list[{found.type}]") if isinstance(found, Lib) else None

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Value | None:
        base = self.value(node.value, scope)
        if isinstance(base, Lib):
            return self.sink.attribute(node, base, self.guard_of(node, base, scope))
        if not isinstance(base, Own) or base.kind == "function":
            return None
        if base.kind == "module":
            return self.program.defined(base.key, node.attr)
        cls = self.program.classes[base.key]
        if node.attr in cls.methods:
            key = cls.methods[node.attr]
            decorators = [ast.unparse(each) for each in self.program.functions[key].node.decorator_list]
            return self.run(key, {}) if "property" in decorators else Own("function", key)
        return self.fields.get((base.key, node.attr)) or self._inherited(node, cls, scope)

    def _inherited(self, node: ast.Attribute, cls: Class, scope: Scope) -> Value | None:
        """An attribute that one of our classes has from a library's class."""
        for each in cls.node.bases:
            base = self.value(each, scope)
            if isinstance(base, Lib) and base.type.startswith("type["):
                instance = Lib(base.library, base.name, base.type[5:-1])
                if base.library.attribute(instance.type, node.attr):
                    return self.sink.attribute(node, instance, None)
        return self.program.convention(node.attr.lstrip("_"))

    def _call(self, node: ast.Call, scope: Scope) -> Value | None:
        name = ast.unparse(node.func)
        if name in ("getattr", "hasattr") and len(node.args) >= 2:
            return self._asked(node, name, scope)
        if name == "super" and scope.owner and not node.args:
            return self._super(scope)
        if name.rpartition(".")[2] == "import_module" and node.args and isinstance(node.args[0], ast.Constant):
            return self.program.module(str(node.args[0].value))
        function = self.value(node.func, scope)
        positional = [self.value(each, scope) for each in node.args]
        named = {each.arg: self.value(each.value, scope) for each in node.keywords}
        if name in ("tuple", "list", "sorted", "iter", "reversed") and len(positional) == 1:
            return positional[0]
        if name in ("cast", "typing.cast") and len(node.args) == 2:
            return self.annotation(node.args[0], scope)
        if isinstance(function, Lib) and function.type.startswith("type["):
            return self.sink.call(node, Bound(function.library, function.name, function.type, CONSTRUCTOR))
        if isinstance(function, Bound):
            return self.sink.call(node, function)
        if isinstance(function, Later):
            return function.value
        if isinstance(function, Own) and function.kind in ("function", "class"):
            return self._own_call(function, positional, named)
        return None

    def _own_call(
        self, function: Own, positional: Sequence[Value | None], named: Mapping[str | None, Value | None]
    ) -> Value | None:
        key, names = function.key, []
        if function.kind == "class":
            cls = self.program.classes[key]
            key = cls.methods.get("__init__", "")
            if not key:
                pairs = [*zip(cls.annotated, positional, strict=False), *named.items()]
                for name, value in pairs:
                    self.learn(self.fields, (function.key, str(name)), value)
                return Own("instance", function.key)
        definition = self.program.functions[key]
        names = [each.arg for each in [*definition.node.args.posonlyargs, *definition.node.args.args]]
        if definition.owner and names[:1] in (["self"], ["cls"]):
            names = names[1:]
        pairs = [*zip(names, positional, strict=False), *named.items()]
        given = {str(name): value for name, value in pairs if value is not None and name is not None}
        for name, value in given.items():
            self.learn(self.parameters, (key, name), value)
        result = self.run(key, given)
        return Own("instance", function.key) if function.kind == "class" else result

    def _asked(self, node: ast.Call, kind: str, scope: Scope) -> Value | None:
        """`hasattr` and `getattr`."""
        first, wanted, *default = node.args
        for each in default:
            self.value(each, scope)
        base = self.value(first, scope)
        if not isinstance(wanted, ast.Constant):
            self.value(wanted, scope)
            return self.sink.dynamic(node, base) if isinstance(base, Lib) else None
        if not isinstance(base, Lib):
            return None
        if kind == "getattr" and not default:
            written = ast.copy_location(ast.Attribute(first, str(wanted.value), ast.Load()), node)
            self.program.places[id(written)] = scope.module
            return self.sink.attribute(written, base, self.guard_of(written, base, scope))
        return self.sink.guard(node, base, str(wanted.value), kind)

    def _super(self, scope: Scope) -> Value | None:
        cls = self.program.classes.get(scope.owner or "")
        for each in cls.node.bases if cls else ():
            base = self.value(each, scope)
            if isinstance(base, Lib):
                return Lib(base.library, base.name, base.type.removeprefix("type[").removesuffix("]"))
        return None


def typed(value: Value | None, type_: str) -> Value | None:
    """A value of the same library with another type; None where that is not known."""
    narrow = typetexts.narrowed(type_)
    return Lib(value.library, value.name, narrow) if isinstance(value, Lib) and narrow != typetexts.ANY else None
