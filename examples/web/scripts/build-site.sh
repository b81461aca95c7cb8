#!/bin/sh
# Makes the site from the pages of the project: writes only what differs, and
# tells bootwell whether anything did.
set -eu

root=$1
mkdir -p "$root"
new=$(mktemp)
trap 'rm -f "$new"' EXIT
echo changed=false > "$BOOTWELL_OUTPUT"

# put FILE moves the new content to its place if it differs.
put() {
	cmp -s "$new" "$1" && return
	cp "$new" "$1.new"
	chmod 644 "$1.new"
	mv "$1.new" "$1"
	echo "wrote $1"
	echo changed=true > "$BOOTWELL_OUTPUT"
}

list=
for page in pages/*.txt; do
	name=$(basename "$page" .txt)
	{
		printf '<!doctype html><title>%s</title>\n<pre>\n' "$name"
		sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' "$page"
		printf '</pre>\n'
	} > "$new"
	put "$root/$name.html"
	list="$list<li><a href=\"$name.html\">$name</a>"
done

printf '<!doctype html><title>%s</title>\n<ul>%s</ul>\n' "$BW_server_name" "$list" > "$new"
put "$root/index.html"
