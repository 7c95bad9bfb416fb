# csv.awk: reads RFC 4180, for programs that run_bench.sh starts with `awk -f csv.awk -f OTHER.awk`.
#
# A record may go over several lines: as long as its number of quotes is odd, it is not over. Feed
# every line to csv_add(); when it returns 1 the record's text is in CSV_TEXT and its fields in
# CSV[1..CSV_N]. Numbers of bytes and characters are the same here: everything runs with LC_ALL=C.

function csv_add(line,    copy) {
    CSV_TEXT = CSV_OPEN ? CSV_TEXT "\n" line : line
    copy = CSV_TEXT
    CSV_OPEN = gsub(/"/, "", copy) % 2
    if (CSV_OPEN) return 0
    csv_split(CSV_TEXT)
    return 1
}

function csv_split(text,    rest, at, field) {
    rest = text
    sub(/\r$/, "", rest)
    CSV_N = 0
    while (1) {
        field = ""
        if (substr(rest, 1, 1) == "\"") {
            rest = substr(rest, 2)
            while ((at = index(rest, "\"")) > 0) {
                field = field substr(rest, 1, at - 1)
                rest = substr(rest, at + 1)
                if (substr(rest, 1, 1) != "\"") break
                field = field "\""
                rest = substr(rest, 2)
            }
        }
        at = index(rest, ",")
        if (at == 0) {
            CSV[++CSV_N] = field rest
            return
        }
        CSV[++CSV_N] = field substr(rest, 1, at - 1)
        rest = substr(rest, at + 1)
    }
}

# The field as it stands in a file: quoted only where it must be.
function csv_quote(field) {
    if (field !~ /[",\r\n]/) return field
    gsub(/"/, "\"\"", field)
    return "\"" field "\""
}
