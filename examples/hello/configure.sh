# Writes what the next step reads: the greeting, and whom to greet.
echo "greeting=$GREETING"
echo "names=$(wc -l < names.txt | tr -d ' ')"
