from glob import glob
import braceexpand
from pathlib import Path
from bksdm.errors import InputError
def expand(pattern, *, allow_pipe=False):
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    out=[]
    for item in patterns:
        ex = list(braceexpand.braceexpand(item)) if "{" in item else sorted(glob(item)) if "*" in item else [item]
        missing=[p for p in ex if not Path(p).is_file()]
        if missing or not ex:
            raise InputError(f"no shard at {missing[0] if missing else item}; make the embedded world's with `bksdm prepare`, or name yours with data.shards='folder/*.tar'")
        out+=ex
    return out
def is_remote(l): return "://" in l or l.startswith("pipe:")
def base_name(l): return l.rpartition("/")[2]
def sibling(l, name): return str(Path(l).parent / name) if name else str(Path(l).parent)
