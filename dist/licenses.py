#!/usr/bin/env python3
"""Lists what is linked into programs, with licences and their texts: licenses.py TRIPLE PACKAGE...

Asks Cargo what the programs of these packages link for that target and takes the texts from the packages' own sources, once
each.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

triple, roots = sys.argv[1], sys.argv[2:]


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


selected = [flag for root in roots for flag in ("-p", root)]
tree = cargo("tree", "--locked", "-e", "normal", "--target", triple, "--prefix", "none", "--format", "{p}", *selected)
# A line is `name vVERSION`, followed by a path or a note in parentheses.
linked = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
metadata = json.loads(cargo("metadata", "--locked", "--format-version", "1", "--filter-platform", triple))
packages = [
    package
    for package in metadata["packages"]
    if package["source"] and (package["name"], "v" + package["version"]) in linked
]
packages.sort(key=lambda package: (package["name"], package["version"]))

texts = {}
for package in packages:
    folder = Path(package["manifest_path"]).parent
    named = [folder / package["license_file"]] if package["license_file"] else []
    found = sorted(
        path
        for path in [*folder.glob("LICEN[SC]E*"), *folder.glob("COPYING*"), *folder.glob("NOTICE*"), *named]
        if path.is_file()
    )
    for path in dict.fromkeys(found):
        text = path.read_text(errors="replace").strip()
        digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
        texts.setdefault(digest, (text, []))[1].append(f"{package['name']} {package['version']}")

print(f"These packages are linked into the programs of {', '.join(roots)} for {triple}.\n")
for package in packages:
    licence = package["license"] or package["license_file"]
    if not licence:
        sys.exit(f"licenses.py: {package['name']} {package['version']} states no licence")
    print(f"{package['name']} {package['version']}: {licence}, {package['repository'] or 'https://crates.io'}")
print("\nThe standard library of Rust is linked, too: MIT OR Apache-2.0, https://github.com/rust-lang/rust")
print("The GNU C library is linked statically: LGPL-2.1-or-later, https://www.gnu.org/software/libc/")
for text, users in texts.values():
    print(f"\n{'=' * 80}\n{', '.join(dict.fromkeys(users))}\n{'=' * 80}\n\n{text}")
