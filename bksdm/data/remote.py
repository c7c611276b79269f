def size_of(l): return None
def read_small(l): return None
