# Greets everyone in names.txt as the file that configure.sh wrote says.
greeting=$(sed -n 's/^greeting=//p' "$1")
while read -r name; do
  echo "$greeting, $name!"
done < names.txt
