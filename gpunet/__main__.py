"""`gpunet`, and `python -m gpunet`: a Ctrl-C while it still imports ends it without a word."""

import signal
import sys


def main() -> None:
    """Run the command line; never returns."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]  # pyarrow would import it
    from gpunet.cli import main as run

    run()


if __name__ == "__main__":
    main()
