#!/bin/sh
# Each page of the project is in the site and in its index.
set -eu

for page in pages/*.txt; do
	name=$(basename "$page" .txt)
	test -s "/srv/web-example/$name.html"
	grep -q "href=\"$name.html\"" /srv/web-example/index.html
done
