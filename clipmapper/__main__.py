"""`python -m clipmapper COMMAND ...`: the console command, where it is not on the path."""

if __name__ == "__main__":  # the processes that draw Shapes import this file, and need none of it
    from clipmapper.commands import main

    main()
