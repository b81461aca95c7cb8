# Finds the Python that cloud-init runs on, also where a distribution hides it,
# and runs the bootstrap on it. A failure ends the script that this is part of,
# so that cloud-init reports it. Without its site and the Python in lzma and ssl,
# an interpreter tells in a tenth of the time whether it has them.
for p in python3 /usr/libexec/platform-python /usr/bin/python3.* /opt/*/bin/python3 $(sed -n '1s/^#!//p;q' /dev/null $(command -v cloud-init));do
"$p" -Sc 'import _lzma,_ssl'&&break
p=
done 2>&-
[ "$p" ]||{ echo bootwell: FAILED: no Python 3 here;exit 1;}
"$p" -u - <<\E||exit
