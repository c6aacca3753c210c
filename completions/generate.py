"""Write the completion scripts beside this file, as the program prints them."""

from pathlib import Path

from mqcli.cli.completion import SCRIPTS

FILES = {"bash": "mqcli.bash", "zsh": "_mqcli", "fish": "mqcli.fish"}

if __name__ == "__main__":
    for shell, name in FILES.items():
        Path(__file__).with_name(name).write_text(SCRIPTS[shell], "utf-8")
