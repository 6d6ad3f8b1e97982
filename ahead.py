"""Loading ahead: background threads that stay a few items in front of who reads."""

import collections
import concurrent.futures
import itertools


def load_ahead(load, items, depth=2, threads=1):
    """Yields (item, load(item)) in order, while threads load the next `depth` items.

    What load raises is raised here, at the item it belongs to. Closing the generator ends the threads.
    """
    items, loading = iter(items), collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        for item in itertools.islice(items, depth):
            loading.append((item, pool.submit(load, item)))
        while loading:
            item, future = loading.popleft()
            loaded = future.result()
            for later in itertools.islice(items, 1):
                loading.append((later, pool.submit(load, later)))
            yield item, loaded
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
