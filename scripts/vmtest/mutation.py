# SPDX-License-Identifier: MIT
"""Find the possible single mutations of a Python file, and apply one."""

from __future__ import annotations

import ast
import difflib
from collections import Counter
from typing import NamedTuple

BOUNDARIES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}


class Mutation(NamedTuple):
    """One change of one file.

    :ivar file: the file's path below the root of the project
    :ivar scope: the enclosing function or class, as in `__qualname__`; empty at module level
    :ivar line: the first line that it changes
    :ivar kind: boundary, comparison, constant, logic, operand, not, arithmetic, statement, branch, return, call or
        errno
    :ivar before: the text that is replaced
    :ivar after: the new text
    :ivar start: offset of the replaced text in the source, in bytes
    :ivar end: offset of its end
    :ivar lines: first and last line of the enclosing statement; for a compound statement, of the part before its body
    :ivar in_function: the mutation is in a function's body, which runs when the function is called, not when the module
        is imported
    :ivar line_text: the whole line without indentation
    :ivar number: number of earlier mutations in the file with the same scope, line text, `before` and `after`
    """

    file: str
    scope: str
    line: int
    kind: str
    before: str
    after: str
    start: int
    end: int
    lines: tuple[int, int]
    in_function: bool
    line_text: str
    number: int

    @property
    def name(self) -> tuple[str, str, str, str, str, int]:
        """A key that identifies the mutation, and does not change when lines are added above it."""
        return self.file, self.scope, self.line_text, self.before, self.after, self.number

    def apply(self, source: bytes) -> bytes:
        """Return the source with this change."""
        return source[: self.start] + self.after.encode() + source[self.end :]

    def changes(self, source: bytes) -> bool:
        """Whether the changed source is valid Python with a different syntax tree."""
        try:
            return ast.dump(ast.parse(self.apply(source))) != ast.dump(ast.parse(source))
        except SyntaxError:
            return False

    def diff(self, source: bytes) -> str:
        """Return the change as a unified diff with one line of context."""
        before, after = (text.decode().splitlines(keepends=True) for text in (source, self.apply(source)))
        return "".join(difflib.unified_diff(before, after, f"a/{self.file}", f"b/{self.file}", n=1))

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        if len(before) > 60:
            before = f"{before[:57]}..."
        return f"{self.file}:{self.line} {self.scope or 'module'}: {self.kind}: {before} -> {after[:60]}"


class Finder(ast.NodeVisitor):
    """A visitor that collects the mutations of one file.

    It leaves out what no test can or should detect: annotations and other code for type checkers, docstrings and other
    strings, f-strings (their parts have no position in Python 3.11), `assert`, `raise NotImplementedError` of abstract
    methods, and `strict=` of zip(), which is an assertion too.
    """

    def __init__(self, file: str, source: bytes) -> None:
        self.file = file
        self.source = source
        self.found: list[Mutation] = []
        self.seen: Counter[tuple[str, str, str, str]] = Counter()
        self.scopes: list[str] = []
        self.returns_bool = [False]
        self.lines = (1, 1)
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.visit(ast.parse(source))

    # --- replacing ------------------------------------------------------------------------------------------------

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return the offsets of a node's begin and end in the source, in bytes."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def add(self, node: ast.expr | ast.stmt, kind: str, after: str | ast.expr) -> None:
        """Add a mutation that replaces a node by `after`."""
        if isinstance(after, ast.expr):
            simple = isinstance(after, (ast.Constant, ast.Name, ast.Attribute, ast.Call, ast.Subscript))
            after = ast.unparse(after) if simple else f"({ast.unparse(after)})"
        start, end = self.span(node)
        before = self.source[start:end].decode()
        scope = ".".join(self.scopes)
        inside = len(self.returns_bool) > 1
        text = self.source[self.starts[node.lineno - 1] : self.starts[node.lineno]].decode().strip()
        number = self.seen[scope, text, before, after]
        self.seen[scope, text, before, after] += 1
        self.found.append(
            Mutation(self.file, scope, node.lineno, kind, before, after, start, end, self.lines, inside, text, number)
        )

    def visit(self, node: ast.AST) -> None:
        """Visit a node. If it is a statement, set `lines` for the mutations in it."""
        outer = self.lines
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
            self.lines = (node.lineno, last or node.lineno)
        super().visit(node)
        self.lines = outer

    # --- what is left out -----------------------------------------------------------------------------------------

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_arg(self, node: ast.arg) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            if not isinstance(node.target, ast.Name):
                self.add(node, "statement", "pass")
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        if isinstance(node.value, (ast.Call, ast.Await)):
            self.add(node, "statement", "pass")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in ("TypeVar", "NewType", "ParamSpec"):
            return
        if name in CALLS:
            self.add(node.func, "call", CALLS[name])
        self.visit(node.func)
        for argument in node.args:
            # The first argument of cast() is a type.
            if not (name == "cast" and argument is node.args[0]):
                self.visit(argument)
        for keyword in node.keywords:
            if not (name == "zip" and keyword.arg == "strict"):
                self.visit(keyword.value)

    # --- definitions ----------------------------------------------------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scopes.append(node.name)
        for part in (*node.decorator_list, *(keyword.value for keyword in node.keywords), *node.body):
            self.visit(part)
        self.scopes.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if any(ast.unparse(decorator).endswith(("overload", "abstractmethod")) for decorator in node.decorator_list):
            return
        for part in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(part)
        self.scopes.append(node.name)
        self.returns_bool.append(node.returns is not None and ast.unparse(node.returns) == "bool")
        for statement in node.body:
            self.visit(statement)
        self.returns_bool.pop()
        self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    # --- statements -----------------------------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.orelse:
                self.visit(statement)
            return
        self.negated(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.add(node, "branch", ast.IfExp(node.test, node.orelse, node.body))
        self.generic_visit(node)

    def negated(self, test: ast.expr) -> None:
        """Add the mutation that swaps the branches of a condition, unless a mutation of another kind does the same."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return
        if isinstance(test, ast.NamedExpr) or any(isinstance(part, ast.NamedExpr) for part in ast.walk(test)):
            self.add(test, "branch", f"(not ({self.source[slice(*self.span(test))].decode()}))")
            return
        self.add(test, "branch", ast.UnaryOp(ast.Not(), test))

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None and "NotImplementedError" in ast.unparse(node.exc):
            return
        self.add(node, "statement", "pass")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        if value is None:
            self.add(node, "statement", "pass")
        elif not isinstance(value, ast.Constant):
            self.add(value, "return", ast.UnaryOp(ast.Not(), value) if self.returns_bool[-1] else ast.Constant(None))
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.add(node, "statement", "pass")

    def visit_Break(self, node: ast.Break) -> None:
        self.add(node, "statement", "pass")

    def visit_Delete(self, node: ast.Delete) -> None:
        if not all(isinstance(target, ast.Name) for target in node.targets):
            self.add(node, "statement", "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(not isinstance(target, (ast.Name, ast.Tuple)) for target in node.targets):
            self.add(node, "statement", "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add(node, "statement", "pass")
        operator = OPERATORS.get(type(node.op))
        if operator is not None:
            self.add(node, "arithmetic", ast.unparse(ast.AugAssign(node.target, operator(), node.value)))
        self.generic_visit(node)

    # --- expressions ----------------------------------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        for kind, others in (("boundary", BOUNDARIES), ("comparison", OPPOSITES)):
            for index, operator in enumerate(node.ops):
                if type(operator) in others:
                    ops = [*node.ops[:index], others[type(operator)](), *node.ops[index + 1 :]]
                    self.add(node, kind, ast.Compare(node.left, ops, node.comparators))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.add(node, "logic", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
        for index in range(len(node.values)):
            rest = [*node.values[:index], *node.values[index + 1 :]]
            self.add(node, "operand", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.add(node, "not", node.operand)
        elif isinstance(node.op, (ast.Invert, ast.USub)):
            self.add(node, "arithmetic", node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        operator = OPERATORS.get(type(node.op))
        texts = (ast.JoinedStr, ast.Constant)
        is_text = any(isinstance(part, texts) and "'" in ast.unparse(part) for part in (node.left, node.right))
        if operator is not None and not is_text:
            self.add(node, "arithmetic", ast.BinOp(node.left, operator(), node.right))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, "constant", ast.Constant(not node.value))
        elif isinstance(node.value, (int, float)):
            self.add(node, "constant", ast.Constant(node.value + 1))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name) and node.value.id == "errno" and node.attr.isupper():
            self.add(node, "errno", "errno.EIO" if node.attr != "EIO" else "errno.EINVAL")
        self.generic_visit(node)


def mutations(file: str, source: bytes) -> list[Mutation]:
    """Return every mutation of a file, including those that change nothing; see `Mutation.changes()`."""
    return Finder(file, source).found
