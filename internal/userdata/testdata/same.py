"""Compares two programs as Python understands them: same.py SOURCE SMALL NAMES."""
import ast
import sys

source, small, names = [open(name).read() for name in sys.argv[1:4]]
short = dict(line.split() for line in names.splitlines())


class Rename(ast.NodeTransformer):
    def generic_visit(self, node):
        super().generic_visit(node)
        for field in "id", "arg", "name":
            value = getattr(node, field, None)
            if isinstance(value, str):
                setattr(node, field, short.get(value, value))
        body = getattr(node, "body", None)
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            del body[0]
        return node


want = ast.dump(Rename().visit(ast.parse(source)))
have = ast.dump(ast.parse(small))
if want != have:
    at = next(i for i, (a, b) in enumerate(zip(want, have)) if a != b)
    sys.exit("they differ:\n%s\n%s" % (want[at - 80 : at + 80], have[at - 80 : at + 80]))
