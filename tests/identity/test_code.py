"""Functions by what their code says: not by where it lies, nor by what is said about it."""

from __future__ import annotations

import ast
import functools
import gc
import importlib.util
import os
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from castore.canonical import identify
from castore.identity.code import digest_code, global_names, name_of


@pytest.fixture
def module(tmp_path):
    """Give a function that writes source to a new file and imports it."""
    count = iter(range(1000))

    def load(source: str):
        path = tmp_path / f"written_{next(count)}.py"
        path.write_text(textwrap.dedent(source) if source.startswith("\n") else source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return load


PLAIN = """
def extract(loader, layer=3):
    total = 0
    for batch in loader:
        total += batch * layer
    return total
"""

SAME = {
    "comments": """
        # a comment
        def extract(loader, layer=3):  # another

            # inside
            total = 0
            for batch in loader:
                total += batch * layer  # at the end
            return total
        """,
    "docstring": '''
        def extract(loader, layer=3):
            """What it does."""
            total = 0
            for batch in loader:
                total += batch * layer
            return total
        ''',
    "moved": "import os\n\n\nOTHER = 1\n" + PLAIN,
    "layout": """
        def extract(
            loader,
            layer = 3,
        ):
            total = (0)
            for batch in loader: total += (batch
                                           * layer)
            return (total)
        """,
    "decorator": """
        def keep(fn):
            return fn

        @keep
        @(lambda fn: fn)
        def extract(loader, layer=3):
            total = 0
            for batch in loader:
                total += batch * layer
            return total
        """,
    "method": """
        class Extractor:
            def extract(loader, layer=3):
                total = 0
                for batch in loader:
                    total += batch * layer
                return total

        extract = Extractor.extract
        """,
    "nested": """
        def make():
            def extract(loader, layer=3):
                total = 0
                for batch in loader:
                    total += batch * layer
                return total
            return extract

        extract = make()
        """,
}


@pytest.mark.parametrize("source", SAME.values(), ids=SAME)
def test_what_changes_nothing_changes_no_digest(module, source):
    """Comments, docstrings, layout, decorators and a function's place are not in its digest."""
    assert digest_code(module(source).extract) == digest_code(module(PLAIN).extract)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("total = 0", "total = 1"),
        ("total = 0", "total = 0.0"),
        ("total = 0", "total = '0'"),
        ("total = 0", "total = False"),
        ("layer=3", "layer=4"),
        ("batch * layer", "batch + layer"),
        ("batch * layer", "layer * batch"),
        ("return total", "return -total"),
        ("    return total", "    yield total"),
        ("def extract(loader, layer=3)", "def extract(loader, *, layer=3)"),
        ("def extract", "async def extract"),
    ],
)
def test_another_code_has_another_digest(module, old, new):
    """Another constant, operator, default, signature or kind of function changes the digest."""
    assert old in PLAIN
    changed = module(PLAIN.replace(old, new))
    assert digest_code(changed.extract) != digest_code(module(PLAIN).extract)


def test_digests_do_not_depend_on_what_was_digested_before(module):
    """Functions of equal bytecode, at one line of two files, have each a digest of its own."""
    one, two = "def f(x, k=1):\n    return x", "def f(x, k=2):\n    return x"
    found = [digest_code(module(source).f) for source in (one, two)]
    assert found[0] != found[1]
    assert found[::-1] == [digest_code(module(source).f) for source in (two, one)]


def test_digest_is_of_the_tree_spelled_out(module):
    """A digest is that of the syntax tree as a document, so that anybody can make it again."""

    def name(text):
        return ["Name", {"ctx": ["Load", {}], "id": text}]

    arguments = {
        "args": [["arg", {"arg": "a"}], ["arg", {"arg": "b"}]],
        "defaults": [["Constant", {"value": None}]],
    }
    total = ["BinOp", {"left": name("a"), "op": ["Add", {}], "right": name("b")}]
    body = [["Return", {"value": total}]]
    document = [
        "FunctionDef",
        {"args": ["arguments", arguments], "body": body, "name": "f"},
    ]
    extract = module('@(lambda fn: fn)\ndef f(a,  b = None):\n  "doc"\n  # why\n  return (a+b)').f
    assert digest_code(extract) == identify("code", document)


def test_docstrings_of_nested_functions_and_classes_are_left_out(module):
    """Docstrings are left out at every depth, and a body of a docstring alone counts as `pass`."""
    documented = '''
        def f():
            """Outer."""
            class Inner:
                """Class."""
                async def g(self):
                    """Method."""
            def h():
                """Only this."""
            return Inner, h
        '''
    plain = """
        def f():
            class Inner:
                async def g(self):
                    pass
            def h():
                pass
            return Inner, h
        """
    assert digest_code(module(documented).f) == digest_code(module(plain).f)


def test_decorators_within_a_function_matter(module):
    """A function's own decorators are left out, those of what it defines are its code."""
    source = "def f(x):\n    @{}\n    def g(): pass\n    @{}\n    class A: pass\n    return g, A\n"
    digests = {digest_code(module(source.format(*k)).f) for k in ("aa", "ab", "ba")}
    assert len(digests) == 3


def test_a_number_at_the_top_is_no_docstring(module):
    """Only text is a docstring."""
    assert digest_code(module("def f():\n    1\n    return 2").f) != digest_code(
        module("def f():\n    return 2").f
    )


def test_a_docstring_of_many_lines_of_any_indentation_is_left_out(module):
    """A method's docstring whose lines begin at the margin is left out like any other."""
    plain = "class A:\n    def f(self):\n        return 1\n"
    flush = 'class A:\n    def f(self):\n        """First\nsecond."""\n        return 1\n'
    assert digest_code(module(flush).A.f) == digest_code(module(plain).A.f)


def test_spaces_within_text_matter(module):
    """Text of many lines is a constant: its spaces are part of the code."""
    one = 'def f():\n    return """a\n    \nb"""\n'
    two = 'def f():\n    return """a\n\nb"""\n'
    one, two = module(one).f, module(two).f
    assert one() != two()
    assert digest_code(one) != digest_code(two)


def test_indentation_within_a_methods_text_matters(module):
    """The text of a nested function is a constant too, however deep the function is nested."""
    flat = module('def f():\n    return """a\n    b"""\n').f
    deep = module('class A:\n    def f():\n        return """a\n        b"""\n').A.f
    assert flat() != deep()
    assert digest_code(flat) != digest_code(deep)


def test_lambdas_go_by_their_bodies(module):
    """Lambdas with equal bodies agree wherever they stand; with other bodies they differ."""
    m = module("""
        f = lambda x: x + 1
        g = sorted([1], key=lambda x: x + 2) and (lambda x: x + 1)
        class A:
            h = lambda x: (
                x + 1  # a comment
            )
        other = lambda x: x + 2
        """)
    assert digest_code(m.f) == digest_code(m.A.h)
    assert digest_code(m.f) != digest_code(m.other)


def test_two_lambdas_in_one_line_are_told_apart(module):
    """Lambdas that share a line, and their arguments' names, have digests of their own."""
    m = module("f, g, h = lambda x: x + 1, lambda x: x + 2, lambda x, y: x + 1")
    assert len({digest_code(fn) for fn in (m.f, m.g, m.h)}) == 3
    again = module("\n\nf, g, h = lambda x: x + 1, lambda x: x + 2, lambda x, y: x + 1")
    assert digest_code(again.f) == digest_code(m.f)
    assert digest_code(again.g) == digest_code(m.g)


def test_two_lambdas_that_differ_in_a_value_alone_are_told_apart(module):
    """Lambdas in one line with equal bytecode differ by constants of other types and signs."""
    bodies = ("1", "1.0", "True", "'1'", "b'1'", "0.0", "-0.0", "(1,)", "x in {1}", "x in {2}")
    found = module("fs = [" + ", ".join(f"lambda x: {body}" for body in bodies) + "]").fs
    assert len({digest_code(fn) for fn in found}) == len(bodies)


def test_lambdas_in_broken_off_lines_are_lambdas(module):
    """A lambda whose line alone does not parse is the lambda it is elsewhere."""
    m = module("""
        class Chain(list):
            def map(self, fn):
                return Chain([*self, fn])
        fns = (Chain()
            .map(lambda x: x + 1)
            .map(lambda x: x + 2))
        """)
    plain = module("fns = [lambda x: x + 1, lambda x: x + 2]")
    assert list(map(digest_code, m.fns)) == list(map(digest_code, plain.fns))


BODIES = [
    *("a if b else c", "a if not b else c", "a and b", "not x", "not (x in a)", "x < a < b"),
    *("1", "None", "1 + 2 * 3", "(1, 2)", "a if True else c", "True and a", "...", "x[..., 1]"),
    *("(yield x)", "(yield)", "(yield from x)", "(y := x)", "[*x, a]", "{**x, 'a': 1}"),
    *("[i for i in x]", "(i for i in x)", "{i: 1 for i in x}", "x.m(a).k(b)", "'%s' % x"),
    *("f'{x}a'", "f''", "lambda y: (x, y)", "lambda: 1", "x == (lambda x: x)"),
]


def test_lambdas_of_every_kind_go_by_their_source(module):
    """Every kind of body is found in the source, whatever the compiler makes of it."""
    spread = [f"lambda x: ({body})".replace(".", "\n    .") for body in BODIES if ". " not in body]
    spread = [f"lambda x: (\n    {body}  # why\n)" for body in BODIES]
    moved = module("import os\nfs = [" + ",\n".join(spread) + "]").fs
    found = module("fs = [" + ", ".join(f"lambda x: {body}" for body in BODIES) + "]").fs
    digests = [digest_code(fn) for fn in found]
    assert len(set(digests)) == len(BODIES)
    assert [digest_code(fn) for fn in moved] == digests


def test_lambdas_within_lambdas_are_told_apart(module):
    """Of lambdas within lambdas each goes by its own body."""
    outer = module("f = lambda x: lambda: lambda x: x").f
    middle = outer(0)
    inner = middle()
    alone = module(
        "f, g, h = (\n    lambda x: lambda: lambda x: x, lambda: lambda x: x, lambda x: x\n)"
    )
    assert [digest_code(fn) for fn in (outer, middle, inner)] == [
        digest_code(fn) for fn in (alone.f, alone.g, alone.h)
    ]


def test_a_methods_text_of_many_lines_is_found(module):
    """A method with text of many lines agrees with a function of equal text."""
    text = '"""a\nb\n    c"""'
    method = module(f"class A:\n    def f(self):\n        return {text}\n").A.f
    plain = module(f"def f(self):\n    return {text}\n").f
    assert method(0) == plain(0) == "a\nb\n    c"
    assert digest_code(method) == digest_code(plain)


def test_lambdas_agree_in_whatever_expression_they_stand(module):
    """A lambda on a line of its own within a dict, call or chain is the lambda it is elsewhere."""
    places = [
        "f = lambda x: x + 1",
        'f = {\n    "f": lambda x: x + 1,\n}["f"]',
        "f = dict(\n    f=lambda x: x + 1,\n    g=None,\n)['f']",
        "f = (None\n    or (lambda x: x + 1))",
        "f = [0, (\n    lambda x: x + 1)][1]",
    ]
    assert len({digest_code(module(source).f) for source in places}) == 1


def executed(source: str):
    """Make a function `f` that has no source."""
    namespace: dict = {}
    exec(textwrap.dedent(source), namespace)
    return namespace["f"]


def test_functions_without_source_go_by_their_code():
    """A function made by exec agrees with one of equal code and differs from any other."""
    same = [executed("def f(x): return x + 1"), executed("\n\ndef f(x):\n    return x + 1  # one")]
    assert digest_code(same[0]) == digest_code(same[1])
    others = [
        "def f(x): return x + 2",
        "def f(x): return x + 1.0",
        "def f(y): return y + 1",
        "def f(x): return x - 1",
        "def f(x): return [y + 1 for y in x]",
        "def f(x): return [y + 2 for y in x]",
        "def f(x): return x in {1, 2}",
        "def f(x): return x in {1, 3}",
        "def f(x): return g(x)",
        "def f(x): return h(x)",
        "def f(x): return x[1, ...]",
        "def f(x): return x[2, ...]",
        "def f(x): return x[(1, ...), ...]",
        "def f(x): return x in {1, ...}",
        "def f(x): return x in {2, ...}",
    ]
    digests = {digest_code(executed(source)) for source in others} | {digest_code(same[0])}
    assert len(digests) == len(others) + 1


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("def f(a): return a", "def f(*a): return a"),
        ("def f(a, b): return a", "def f(a, *b): return a"),
        ("def f(*a): return a", "def f(**a): return a"),
    ],
)
def test_functions_without_source_differ_by_their_signature(one, two):
    """Where one takes an argument and the other all of them, equal bytecode is not equal code."""
    assert digest_code(executed(one)) != digest_code(executed(two))


WITHOUT_SOURCE = """
from castore.identity.code import digest_code
space = {}
exec("def f(x): return x in {'a', 'b', 'c', 'd'}, [y for y in x]", space)
print(digest_code(space["f"]))
"""


def test_digests_without_source_do_not_depend_on_the_hash_seed():
    """A set among a code object's constants is digested in one order in every process."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", WITHOUT_SOURCE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def f(x):\n    return x + 1\n", "def f(x):\n    return x + 22\n"),
        ("def f(x):\n    return x + 1\n", "def f(x):\n    return x + 2\n"),
        ("def f(x):\n    return x + 1\n", "def f(x):\n    return x + 1.0\n"),
        ("def f(x):\n    return x + 1\n", "def f(x):\n    def g(): return 2\n    return g\n"),
        ("f = lambda x: x + 1\n", "f = lambda x: x + 2\n"),
        ("f = lambda x: x + 1\n", "f = lambda x: 2 + x, lambda x: x + 1\n"),
    ],
)
def test_a_file_edited_while_the_process_runs_does_not_speak_for_what_runs(module, old, new):
    """The digest is of the code that runs, not of what its file says by now."""
    loaded, edited = module(old), module(new)
    Path(loaded.__file__).write_text(new)
    assert loaded.f(0) == 1
    function = edited.f[0] if isinstance(edited.f, tuple) else edited.f
    assert digest_code(loaded.f) != digest_code(function)


def test_a_file_that_is_gone_does_not_matter(module):
    """A function whose file was taken away while it runs goes by its code object."""
    loaded = module(PLAIN)
    Path(loaded.__file__).unlink()
    assert digest_code(loaded.extract) != digest_code(module(PLAIN).extract)


def test_a_file_edited_elsewhere_still_speaks_for_what_runs(module):
    """What is added below a function does not change what its source is."""
    loaded = module(PLAIN)
    Path(loaded.__file__).write_text(textwrap.dedent(PLAIN) + "\n\ndef other():\n    pass\n")
    assert digest_code(loaded.extract) == digest_code(module(PLAIN).extract)


def test_code_that_has_run_long_has_the_digest_it_had(module):
    """A function that Python has specialised while it ran is found in its source."""
    loaded = module(PLAIN)
    for _ in range(1000):
        loaded.extract([1, 2])
    loaded.extract(range(10_000))
    assert digest_code(loaded.extract) == digest_code(module(PLAIN).extract)


def test_source_with_a_warning_is_read_in_silence(module):
    """What the compiler warns of was said when the file was imported, and changes no digest."""
    source = "def f(x):\n    return '\\d', x\n"
    with pytest.warns((DeprecationWarning, SyntaxWarning)):
        loaded = module(source)
    assert digest_code(loaded.f) == digest_code(module("def f(x):\n    return '\\\\d', x\n").f)


def test_whoever_parses_meanwhile_does_not_matter(module):
    """A digest comes out the same where finalizers parse while the source is parsed."""
    source = "def f():\n" + "".join(f"    x = [{n}, [{n}]]\n" for n in range(500))
    disturbed = []

    def disturb(_phase, _info):
        parsing = sys._getframe(1).f_code.co_filename == ast.__file__
        if parsing and len(disturbed) < 3:
            disturbed.append(ast.parse("y = (1, 2)"))

    gc.callbacks.append(disturb)
    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        found = digest_code(module(source).f)
    finally:
        gc.callbacks.remove(disturb)
        gc.set_threshold(*threshold)
    assert disturbed or sys.version_info >= (3, 12)  # from there on collections wait
    assert found == digest_code(module(source).f)


def test_threads_leave_the_filters_of_warnings_alone(module):
    """However many threads read sources with warnings at once, the user's filters stay."""
    lines = "".join(f"    x = {n}\n" for n in range(300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functions = [module(f"def f():\n{lines}    return '\\d', {n}\n").f for n in range(8)]
    before = list(warnings.filters)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(functions)) as pool:
            list(pool.map(digest_code, functions))
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before


def test_functions_within_functions_of_their_own_name_have_digests(module):
    """A function that defines another of its own name is told apart by both bodies."""
    source = "def f():\n    def f():\n        return {}\n    return f, {}\n"
    digests = {digest_code(module(source.format(*k)).f) for k in ((1, 1), (1, 2), (2, 1))}
    assert len(digests) == 3


def test_global_names_are_those_the_code_loads(module):
    """Globals are what a function and code within it load, not what it assigns or attributes."""
    m = module("""
        def f(x, y=DEFAULT if False else 0):
            import os as local
            def inner():
                return DEEP + x
            class Local:
                size = WIDTH
            return [ITEM for _ in x], (lambda: LAZY), x.attribute, local, inner, Local
        """)
    assert global_names(m.f.__code__) == ("DEEP", "ITEM", "LAZY", "WIDTH", "__name__")


def test_names_are_those_a_reader_knows():
    """A callable is called by its own name, without the function it was defined in."""

    def local():
        """Do nothing."""

    class Thing:
        def __call__(self):
            """Do nothing."""

        def method(self):
            """Do nothing."""

    assert name_of(local) == "local"
    assert name_of(functools.partial(functools.partial(local))) == "local"
    assert name_of(Thing()) == "Thing"
    assert name_of(Thing().method) == "Thing.method"
    assert name_of(len) == "len"
