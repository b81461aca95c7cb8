#!/bin/sh -eu
# A line for each call, to see when the step runs.
echo "$BOOTWELL_RELEASE says $BW_greeting" >>/var/lib/notes
