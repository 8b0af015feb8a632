"""What happens before the first job of a run and after the last."""


def forget_hubs():
    """Remove what the hubs answered: the next run asks again."""
    if os.path.exists(HUB_ANSWERS):
        os.remove(HUB_ANSWERS)


def finish():
    """Bring the tables into the README, where there is one, and say what came out."""
    if os.path.exists("README.md"):
        shell("python {path:q} README.md", path=script("readme"))
    if os.path.exists("results/summary.json"):
        shell("python {path:q} results/summary.json", path=script("show"))


onstart:
    forget_hubs()


onsuccess:
    forget_hubs()
    finish()


onerror:
    forget_hubs()
