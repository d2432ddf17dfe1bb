"""`finetune VERB …` and `python -m finetune VERB …`."""

from finetune import signals

signals.exit_on_interrupt()  # before anything else is imported: only a program imports this module


def main() -> None:
    """Run the command line; Ctrl-C and closed streams are handled before the libraries behind it are imported."""
    from finetune import native_libraries, streams

    streams.settle()
    native_libraries.set_defaults()
    from finetune.cli.app import main as cli

    cli()


if __name__ == "__main__":
    main()
