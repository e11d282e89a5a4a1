"""Walks our files and follows what comes from a library: names, attributes, calls, results, our own functions.

The order is that of the text; a branch is walked as if taken. What cannot be followed is unknown, never guessed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from trt_contract import typetexts
from trt_contract.expressions import Expressions, typed
from trt_contract.guards import Guards
from trt_contract.program import Definition, Function, Lib, Own, Program, Several, Value
from trt_contract.scope import Scope, Sink

ROUNDS = 3  # fields and parameters learn from one another
_DEPTH = 6  # how deep calls of our own functions are followed


class Walk(Expressions):
    """Walks over a program; each walk knows what those before it learned."""

    def __init__(self, program: Program, sink: Sink) -> None:
        super().__init__(program, sink)
        self._stack: list[str] = []
        self._tops: dict[str, Scope] = {}
        self._known: dict[tuple[str, frozenset[tuple[str, Value]]], Value | None] = {}

    def everything(self) -> None:
        """Walk each file, and each function with what is known of its parameters."""
        self._known.clear()
        for module, tree in self.program.trees.items():
            top = self._top(module)
            for each in tree.body:
                if not isinstance(each, Function):
                    self.statement(each, top)
        for key in self.program.functions:
            self.run(key, {})

    def run(self, key: str, given: Mapping[str, Value]) -> Value | None:
        """As `Expressions` has it; what was walked with the same arguments is not walked again."""
        situation = (key, frozenset(given.items()))
        if situation in self._known:
            return self._known[situation]
        if key in self._stack or len(self._stack) >= _DEPTH:
            return None
        definition = self.program.functions[key]
        outer = self._top(definition.module)
        self._stack.append(key)
        scope = self._scope(definition, key, given, outer)
        self.block(definition.node.body, scope)
        self._stack.pop()
        stated = self.annotation(definition.node.returns, outer)
        self._known[situation] = stated or next(iter(scope.returns), None)
        return self._known[situation]

    def _top(self, module: str) -> Scope:
        """The names of a file; imports anywhere in it bind here too, such as those under TYPE_CHECKING."""
        if module not in self._tops:
            names: dict[str, Value | None] = {}
            for node in ast.walk(self.program.trees[module]):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names |= self.program.imported(node)
            self._tops[module] = Scope(names, module)
        return self._tops[module]

    def _scope(self, definition: Definition, key: str, given: Mapping[str, Value], outer: Scope) -> Scope:
        spec = definition.node.args
        names: dict[str, Value | None] = {}
        for each in [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]:
            stated = self.annotation(each.annotation, outer)
            learned = given.get(each.arg) or self.parameters.get((key, each.arg))
            names[each.arg] = stated or learned or self.program.convention(each.arg)
        decorators = [ast.unparse(each) for each in definition.node.decorator_list]
        if definition.owner and spec.args and "staticmethod" not in decorators:
            names[spec.args[0].arg] = Own("class" if "classmethod" in decorators else "instance", definition.owner)
        return Scope(names, definition.module, definition.owner, outer)

    def block(self, body: Sequence[ast.stmt], scope: Scope) -> None:
        """Walk statements in order; a guard that leaves early holds for the rest."""
        before = scope.guards
        for each in body:
            self.statement(each, scope)
            if isinstance(each, ast.If) and _leaves(each.body) and not each.orelse:
                scope.guards = scope.guards | self.held(each.test, scope, False)
        scope.guards = before

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        """Walk one statement."""
        match node:
            case ast.Import() | ast.ImportFrom():
                scope.names.update(self.program.imported(node))
            case ast.Assign():
                value = self.value(node.value, scope)
                for target in node.targets:
                    self.bind(target, value, scope)
            case ast.AnnAssign():
                value = self.value(node.value, scope) if node.value else None
                self.bind(node.target, self.annotation(node.annotation, scope) or value, scope)
            case ast.If() | ast.While():
                self.value(node.test, scope)
                self._guarded(node.body, scope, self.held(node.test, scope, True))
                self._guarded(node.orelse, scope, self.held(node.test, scope, False))
            case ast.For() | ast.AsyncFor():
                self.bind(node.target, self.item(self.value(node.iter, scope)), scope)
                self.block([*node.body, *node.orelse], scope)
            case ast.With() | ast.AsyncWith():
                for each in node.items:
                    value = self.value(each.context_expr, scope)
                    if each.optional_vars is not None:
                        self.bind(each.optional_vars, value, scope)
                self.block(node.body, scope)
            case ast.Try():
                self._try(node, scope)
            case ast.Return():
                value = self.value(node.value, scope) if node.value else None
                if value is not None:
                    scope.returns.append(value)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._nested(node, scope)
            case ast.ClassDef():
                self._class(node, scope)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child, scope)
                    elif isinstance(child, ast.stmt):
                        self.statement(child, scope)

    def bind(self, target: ast.expr, value: Value | None, scope: Scope) -> None:
        """Assign `value` to `target`; what is unknown does not wipe out what was known."""
        match target:
            case ast.Name():
                if value is not None or target.id not in scope.names:
                    scope.names[target.id] = value
            case ast.Attribute():
                base = self.value(target.value, scope)
                if isinstance(base, Lib):
                    self.sink.attribute(target, base, self.guard_of(target, base, scope))
                elif isinstance(base, Own) and base.kind == "instance":
                    self.learn(self.fields, (base.key, target.attr), value)
            case ast.Tuple() | ast.List():
                for index, each in enumerate(target.elts):
                    if isinstance(each, ast.Starred):
                        self.bind(each.value, _rest(value, index), scope)
                    else:
                        self.bind(each, self.item(value, index), scope)
            case _:
                self.value(target, scope)

    def _try(self, node: ast.Try, scope: Scope) -> None:
        caught = any(each.type is not None and "AttributeError" in ast.unparse(each.type) for each in node.handlers)
        self._guarded(node.body, scope, Guards(caught=caught))
        for handler in node.handlers:
            self.block(handler.body, scope)
        self.block([*node.orelse, *node.finalbody], scope)

    def _nested(self, node: Function, scope: Scope) -> None:
        """A function in a function, or a method of a class in a function."""
        spec = node.args
        arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
        self.block(node.body, scope.inner({each.arg: self.annotation(each.annotation, scope) for each in arguments}))

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        for base in node.bases:
            value = self.value(base, scope)
            if isinstance(value, Lib):
                self.sink.subclass(node, value)
        key = f"{scope.module}.{node.name}"
        top_level = key in self.program.classes and self.program.classes[key].node is node
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and top_level:
                self.learn(self.fields, (key, each.target.id), self.annotation(each.annotation, scope))
            elif not isinstance(each, Function):
                self.statement(each, scope.inner({}))
            elif not top_level:
                self._nested(each, scope)

    def _guarded(self, body: Sequence[ast.stmt], scope: Scope, more: Guards) -> None:
        before = scope.guards
        scope.guards = before | more
        self.block(body, scope)
        scope.guards = before


def _rest(value: Value | None, index: int) -> Value | None:
    """What a starred target takes."""
    if isinstance(value, Several):
        return Several(value.values[index:])
    return typed(value, typetexts.without(value.type, index)) if isinstance(value, Lib) else None


def _leaves(body: Sequence[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)
