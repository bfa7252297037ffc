#!/bin/bash
# Stands for tensorflow_model_server. In the folder STAND_IN it writes down its arguments and its process id; it does
# what STAND_IN_MANNER says: ignore SIGTERM, finish after one when told to, fail, or die.
cd "$STAND_IN" || exit 99
printf '%s\n' "$@" | tee arguments
case "${STAND_IN_MANNER:-}" in
  ignore) trap '' TERM ;;
  finish) trap 'touch finishing; until [ -e finish ]; do sleep 0.01; done; touch finished; exit 7' TERM ;;
  fail) exit 3 ;;
  die) kill -KILL $$ ;;
esac
echo $$ > started.part && mv started.part started && echo started
while true; do
  sleep 0.02
done
