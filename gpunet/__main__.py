"""`gpunet`, and `python -m gpunet`: a Ctrl-C while it still imports ends it without a word."""

import signal


def main() -> None:
    """Run the command line; never returns."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gpunet.isolation import hide_pandas

    hide_pandas()
    from gpunet.cli import main as run

    run()


if __name__ == "__main__":
    main()
