# Certificates to trust besides the system's: for buckets with ca=.

import ssl

context = ssl.create_default_context()
for path in AUTHORITIES:
    context.load_verify_locations(None, None, open(path).read())
install_opener(build_opener(HTTPSHandler(context=context)))
