# report.awk: compares runs. HTML=FILE awk -f csv.awk -f report.awk RUN.csv... [repeats.csv]
#
# Text goes to stdout and the same with two charts to HTML, one page that needs nothing else.
# Columns are found by their names, so a file with only #,TASK,VOTE,REMARKS is a run too. Runs get
# letters. Speeds are all tokens over all seconds. What the reader remarked stands side by side,
# task by task. Votes of two runs are compared task by task: under the idea that both are alike,
# each difference could as well have the other sign; p is the share of all such sign changes that
# give a sum at least as far from zero, counted exactly.

BEGIN { html = ENVIRON["HTML"] } # -v would take a backslash for an escape
FNR == 1 {
    end_file()
    sub(/^\357\273\277/, "") # a byte order mark, from a spreadsheet
    start_file()
}
!CSV_OPEN { record_line = FNR }
csv_add($0) {
    if (FNR == first_line) next
    if (kind == "run") add_row()
    else if (kind == "repeats" && CSV_N == 5) { n_repeats++; repeat_apart += abs(CSV[4] - CSV[5]) }
}
END {
    end_file()
    report()
}

function abs(x) { return x < 0 ? -x : x }

# What is wrong with the record that begins in record_line, in one line.
function complain(text) {
    print "run_bench: " file ":" record_line ": " text >"/dev/stderr"
}

function end_file() {
    if (CSV_OPEN && kind != "")
        complain("expected a quote that ends, got none to the end of the file; " \
            "this row and those behind it are left out")
    CSV_OPEN = 0
}

function start_file(    line, i, name) {
    file = FILENAME
    line = $0
    csv_split(line)
    first_line = 1
    kind = ""
    if (CSV[1] == "ts_utc" && CSV[4] == "first") { kind = "repeats"; return }
    if (CSV[1] != "#" || CSV[3] != "VOTE") {
        print "run_bench: " FILENAME ": not a run, left out" >"/dev/stderr"
        return
    }
    kind = "run"
    split("", column)
    for (i = 1; i <= CSV_N; i++) column[CSV[i]] = i
    name = FILENAME
    sub(/.*\//, "", name)
    sub(/\.csv$/, "", name)
    run[++R] = name
    model[R] = name
    # gawk 5.2 dies where an element that never was set goes through two calls.
    prompt_n[R] = prompt_s[R] = decode_n[R] = decode_s[R] = first_s[R] = first_n[R] = 0
}

function get(name) { return name in column ? one_line(CSV[column[name]]) : "" }

# Without line ends, and without what a terminal would obey.
function one_line(s) {
    gsub(/[\001-\037\177]+/, " ", s)
    gsub(/^ +| +$/, "", s)
    return s
}

# One row of run R; of two rows for a task the first counts.
function add_row(    task, v, n, part) {
    if (CSV[1] ~ /^ *$/) return # an empty line, or one of sums
    task = CSV[1] + 0
    if (task < 1 || task > 9999 || task != int(task)) {
        complain("expected a number from 1 to 9999 in the column #, got \"" \
            substr(one_line(CSV[1]), 1, 80) "\"; this row is left out")
        return
    }
    if (task > T) T = task
    if (!(task in task_name)) { task_name[task] = get("TASK"); n_tasks++ }
    if ((R, task) in row) return duplicate(R, task)
    row[R, task] = 1
    v = get("VOTE")
    if (v ~ /^[0-5]$/) { vote[R, task] = v + 0; total[R] += v; votes[R]++ }
    v = get("REMARKS")
    if (v != "") { remark[R, task] = v; remarked[task] = 1; n_remarks++ }
    if (get("model") != "") model[R] = get("model")
    quant[R] = get("quant")
    set[R] = get("prompts")
    hash[R, task] = get("prompt_hash")
    profile[R] = get("profile")
    if (sub(/[+]task$/, "", profile[R])) own[R] = " (with the tasks' own sampling)"
    if (get("finish") ~ /^failed/) return
    n = get("prompt_tok") - get("cached_tok")
    if (get("prefill_tps") + 0 > 0) {
        prompt_n[R] += n
        prompt_s[R] += n / get("prefill_tps")
    }
    n = get("out_tok") - 1
    if (get("decode_tps") + 0 > 0 && n > 0) {
        decode_n[R] += n
        decode_s[R] += n / get("decode_tps")
    }
    if (get("ttft_ms") != "") { first_s[R] += get("ttft_ms") / 1000; first_n[R]++ }
    if (get("peak_rss_mb") + 0 > peak[R]) peak[R] = get("peak_rss_mb") + 0
    if (split(get("auto_pass"), part, "/") == 2) { good[R] += part[1]; checks[R] += part[2] }
}

function duplicate(r, task) {
    print "run_bench: " run[r] ": task " task " has two rows, the first counts" >"/dev/stderr"
}

function rate(n, s) { return s > 0 ? sprintf("%.1f", n / s) : "-" }
function mean(sum, n) { return n > 0 ? sprintf("%.2f", sum / n) : "-" }
function letter(r) {
    return r <= 26 ? substr("ABCDEFGHIJKLMNOPQRSTUVWXYZ", r, 1) : "R" r
}
function title(r) { return model[r] (quant[r] != "" ? " " quant[r] : "") }

function score(r, t) { return (r, t) in vote ? vote[r, t] : "-" }

# A total without every task is not to be held against one with all.
function star(r) { return votes[r] && votes[r] < n_tasks ? "*" : "" }
function star_line(    r) {
    for (r = 1; r <= R; r++)
        if (star(r)) return "* without a score for every task: not to be compared with whole totals"
    return ""
}

# ---- What a table says ---------------------------------------------------------------------------

# Value of a summary line for run r.
function summary(line, r) {
    if (line == 1) return votes[r] ? total[r] star(r) : "-"
    if (line == 2) return votes[r] + 0
    if (line == 3) return checks[r] ? good[r] "/" checks[r] : "-"
    if (line == 4) return rate(prompt_n[r], prompt_s[r])
    if (line == 5) return rate(decode_n[r], decode_s[r])
    if (line == 6) return mean(first_s[r], first_n[r])
    return peak[r] ? sprintf("%.0f", peak[r]) : "-"
}
function summary_name(line) {
    if (line == 1) return "total of " 5 * n_tasks
    if (line == 2) return "tasks scored"
    if (line == 3) return "checks passed"
    if (line == 4) return "prompt tokens/s"
    if (line == 5) return "answer tokens/s"
    if (line == 6) return "first token, s"
    return "peak memory, MiB"
}

# The two-sided p of the sum of d[1..n] (whole numbers) under changes of sign.
function permutation_p(d, n,    ways, next_ways, i, s, reach, sum, hits, all) {
    split("", ways)
    ways[0] = 1
    for (i = 1; i <= n; i++) {
        split("", next_ways)
        for (s = -reach; s <= reach; s++) {
            if (!(s in ways)) continue
            next_ways[s + d[i]] += ways[s]
            next_ways[s - d[i]] += ways[s]
        }
        reach += abs(d[i])
        sum += d[i]
        split("", ways)
        for (s = -reach; s <= reach; s++) if (s in next_ways) ways[s] = next_ways[s]
    }
    for (s = -reach; s <= reach; s++) if (s in ways) {
        all += ways[s]
        if (abs(s) >= abs(sum)) hits += ways[s]
    }
    return hits / all
}

# The two-sided p of the sign test.
function sign_p(wins, losses,    n, k, least, c, sum) {
    n = wins + losses
    least = wins < losses ? wins : losses
    c = 1
    for (k = 0; k <= least; k++) {
        sum += c
        c = c * (n - k) / (k + 1)
    }
    for (k = 1; k < n; k++) sum /= 2
    return n == 0 || sum > 1 ? 1 : sum
}

# Compare runs a and b over the tasks that both have votes for, into the pair_ variables.
function compare(a, b,    t, d) {
    pair_n = pair_sum = pair_wins = pair_losses = pair_others = 0
    split("", d)
    for (t = 1; t <= T; t++) {
        if (!((a, t) in vote) || !((b, t) in vote)) continue
        d[++pair_n] = vote[a, t] - vote[b, t]
        if (hash[a, t] == "" || hash[b, t] == "") {
            if (set[a] != "" && set[b] != "" && set[a] != set[b]) pair_others = 1
        } else if (hash[a, t] != hash[b, t]) pair_others = 1
        pair_sum += d[pair_n]
        if (d[pair_n] > 0) pair_wins++
        if (d[pair_n] < 0) pair_losses++
    }
    pair_p = pair_n ? permutation_p(d, pair_n) : 1
    pair_sign = sign_p(pair_wins, pair_losses)
}

function p_text(p) { return sprintf(p < 0.001 ? "%.4f" : "%.3f", p) }

# With several pairs some look different by luck: p counts times the number of pairs.
function verdict(a, b) {
    if (pair_n == 0) return "no task has votes in both"
    return (pair_p * n_pairs < 0.05 ? "more than chance" : "may be chance") \
        (pair_others ? " (other prompts)" : "")
}
function pairs_note() {
    return "With " n_pairs " pairs, p counts " n_pairs " times before it is held against 0.05."
}

function count_pairs(    a, b) {
    for (a = 1; a <= R; a++) for (b = a + 1; b <= R; b++) if (votes[a] && votes[b]) n_pairs++
}

# ---- Text ----------------------------------------------------------------------------------------

function report_text(    r, t, line, a, b) {
    printf "%d run%s, %d tasks\n\n", R, (R == 1 ? "" : "s"), n_tasks
    for (r = 1; r <= R; r++)
        printf "%3s  %s (run %s%s%s)\n", letter(r), title(r), run[r],
            (set[r] != "" ? ", prompts " set[r] : ""),
            (profile[r] != "" ? ", profile " profile[r] own[r] : "")
    printf "\n%-52s", "task"
    for (r = 1; r <= R; r++) printf "%9s", letter(r)
    printf "\n"
    for (t = 1; t <= T; t++) {
        if (!(t in task_name)) continue
        printf "%2d %-49s", t, shorten(task_name[t])
        for (r = 1; r <= R; r++) printf "%9s", score(r, t)
        printf "\n"
    }
    printf "\n"
    for (line = 1; line <= 7; line++) {
        printf "%-52s", summary_name(line)
        for (r = 1; r <= R; r++) printf "%9s", summary(line, r)
        printf "\n"
    }
    if (star_line() != "") print star_line()
    if (n_pairs) printf "\nDifferences, task by task (exact permutation test; sign test)\n"
    for (a = 1; a <= R; a++) for (b = a + 1; b <= R; b++) if (votes[a] && votes[b]) {
        compare(a, b)
        printf "%s - %s: %+d over %d tasks, better in %d, worse in %d; p = %s (%s): %s\n",
            letter(a), letter(b), pair_sum, pair_n, pair_wins, pair_losses,
            p_text(pair_p), p_text(pair_sign), verdict(a, b)
    }
    if (n_pairs > 1) print pairs_note()
    text_remarks()
    if (n_repeats) print "\n" repeat_line()
}

function text_remarks(    r, t) {
    if (n_remarks) printf "\nRemarks\n"
    for (t = 1; t <= T; t++) {
        if (!(t in remarked)) continue
        printf "%2d %s\n", t, task_name[t]
        for (r = 1; r <= R; r++)
            if ((r, t) in remark) printf "%6s %s  %s\n", letter(r), score(r, t), remark[r, t]
    }
}

function repeat_line() {
    return sprintf("Reader: %d answer%s scored twice without knowing, " \
                   "%.1f points apart on average.",
                   n_repeats, (n_repeats == 1 ? "" : "s"), repeat_apart / n_repeats)
}

# ---- The page ------------------------------------------------------------------------------------

function esc(s) {
    gsub(/&/, "\\&amp;", s)
    gsub(/</, "\\&lt;", s)
    gsub(/>/, "\\&gt;", s)
    gsub(/"/, "\\&quot;", s)
    return s
}
function out(s) { print s >html }

function page_head() {
    out("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
    out("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">" \
        "<title>Catalogue report</title><style>")
    out(":root{color-scheme:light dark;" \
        "--ink:#1a2230;--soft:#5a6678;--line:#ccd3dd;--dot:#1f5fa8;--page:#fff}")
    out("@media(prefers-color-scheme:dark){:root{" \
        "--ink:#e6eaf0;--soft:#9aa6b8;--line:#3a4452;--dot:#7db4f0;--page:#12161c}}")
    out("body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);" \
        "max-width:60rem;margin:2rem auto;padding:0 1rem}")
    out("h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}p,li{max-width:46rem}")
    out(".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}")
    out("th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line);" \
        "text-align:right;white-space:nowrap}")
    out("th:first-child,td:first-child,.text{text-align:left}th{font-weight:600}")
    out(".remark{text-align:left;white-space:normal;min-width:20rem}")
    out("svg{display:block;height:auto}" \
        "svg text{font:13px system-ui,sans-serif;fill:var(--ink)}" \
        "svg .soft{fill:var(--soft)}svg .head{font-weight:600}")
    out("</style></head><body>\n<h1>Catalogue report</h1>")
}

function page_runs(    r) {
    out("<div class=\"wide\"><table><tr><th>run</th><th class=\"text\">model</th>" \
        "<th class=\"text\">prompts</th><th class=\"text\">profile</th></tr>")
    for (r = 1; r <= R; r++)
        out("<tr><td>" letter(r) " &nbsp; " esc(run[r]) "</td>" \
            "<td class=\"text\">" esc(title(r)) "</td>" \
            "<td class=\"text\">" esc(set[r]) "</td>" \
            "<td class=\"text\">" esc(profile[r] own[r]) "</td></tr>")
    out("</table></div>")
}

# A grid: a row for each task, a column for each run, darker is better.
function page_grid(    fill, ink, r, t, x, y, left, w, h, width, height, v, i) {
    split("#e3ebf6 #c3d5ec #97b8de #6a9bd0 #2e68aa #123f75", fill, " ")
    split("#10233c #10233c #10233c #0a1a2e #ffffff #ffffff", ink, " ")
    left = 320; w = 64; h = 26
    width = left + R * w
    height = (n_tasks + 2) * h + 8
    out("<h2>Score by task and model</h2><p>0 to 5; darker is better.</p><div class=\"wide\">")
    out("<svg role=\"img\" aria-label=\"Votes by task and run\"" \
        " width=\"" width "\" height=\"" height "\" viewBox=\"0 0 " width " " height "\">")
    for (r = 1; r <= R; r++)
        out("<text x=\"" left + (r - 0.5) * w "\" y=\"17\" text-anchor=\"middle\" class=\"head\">" \
            letter(r) "<title>" esc(title(r)) "</title></text>")
    for (t = 1; t <= T; t++) {
        if (!(t in task_name)) continue
        y = ++i * h
        out("<text x=\"0\" y=\"" y + 17 "\"><tspan class=\"soft\">" t "</tspan> " \
            esc(shorten(task_name[t])) "</text>")
        for (r = 1; r <= R; r++) {
            x = left + (r - 1) * w
            v = (r, t) in vote ? vote[r, t] : -1
            if (v < 0)
                out("<text class=\"soft\" x=\"" x + w / 2 "\" y=\"" y + 17 "\"" \
                    " text-anchor=\"middle\">&#8211;</text>")
            else
                out("<rect x=\"" x + 1 "\" y=\"" y + 1 "\"" \
                    " width=\"" w - 2 "\" height=\"" h - 2 "\" rx=\"3\" fill=\"" fill[v + 1] "\">" \
                    "<title>" esc(letter(r) ", " task_name[t]) ": " v "</title></rect>" \
                    "<text x=\"" x + w / 2 "\" y=\"" y + 18 "\" text-anchor=\"middle\"" \
                    " style=\"fill:" ink[v + 1] "\">" v "</text>")
        }
    }
    y = (n_tasks + 1) * h + 8
    out("<text x=\"0\" y=\"" y + 17 "\" class=\"head\">total of " 5 * n_tasks "</text>")
    for (r = 1; r <= R; r++)
        out("<text x=\"" left + (r - 0.5) * w "\" y=\"" y + 17 "\"" \
            " text-anchor=\"middle\" class=\"head\">" summary(1, r) "</text>")
    out("</svg></div>")
    if (star_line() != "") out("<p>" star_line() ".</p>")
}
# Cut at a byte that begins a character, so that Chinese names stay whole.
function shorten(s,    n) {
    if (length(s) <= 48) return s
    n = 45
    while (n > 30 && substr(s, n + 1, 1) ~ /[\200-\277]/) n--
    return substr(s, 1, n) "..."
}

# The next round number for an axis.
function round_up(x,    step, k) {
    step = 1
    while (step * 10 < x) step *= 10
    while (step > x) step /= 10
    for (k = 1; k < 10; k++) if (x <= k * step && k != 7 && k != 9) return k * step
    return 10 * step
}

# The lines behind the dots and the numbers of both axes, in five steps.
function page_axes(left, w, h, max_x, max_y,    x, y, k) {
    for (k = 0; k <= 5; k++) {
        y = 30 + h - h * k / 5
        x = left + w * k / 5
        out("<line x1=\"" left "\" x2=\"" left + w "\" y1=\"" y "\" y2=\"" y "\"" \
            " stroke=\"var(--line)\"/>")
        out("<text class=\"soft\" x=\"" left - 8 "\" y=\"" y + 4 "\" text-anchor=\"end\">" \
            max_y * k / 5 "</text>")
        out("<text class=\"soft\" x=\"" x "\" y=\"" h + 50 "\" text-anchor=\"middle\">" \
            max_x * k / 5 "</text>")
    }
    out("<text class=\"soft\" x=\"" left + w / 2 "\" y=\"372\" text-anchor=\"middle\">" \
        "answer tokens/s</text>")
    out("<text class=\"soft\" x=\"0\" y=\"12\">total</text>")
}

# A dot for each run: answer tokens/s to the right, the total upwards.
function page_speed(    r, q, n, max_x, max_y, left, w, h, px, py, from, to, label, right, moved) {
    for (r = 1; r <= R; r++) if (votes[r] && decode_s[r] > 0) {
        n++
        if (decode_n[r] / decode_s[r] > max_x) max_x = decode_n[r] / decode_s[r]
    }
    if (!n) return
    max_x = round_up(max_x); max_y = 5 * n_tasks
    left = 50; w = 640; h = 300
    out("<h2>Score against speed</h2><div class=\"wide\">")
    out("<svg role=\"img\" aria-label=\"Total score against tokens per second\"" \
        " width=\"880\" height=\"380\" viewBox=\"0 0 880 380\">")
    page_axes(left, w, h, max_x, max_y)
    for (r = 1; r <= R; r++) if (votes[r] && decode_s[r] > 0) {
        px[r] = left + w * decode_n[r] / decode_s[r] / max_x
        py[r] = 30 + h - h * total[r] / max_y
        label = letter(r) star(r) "  " shorten(title(r))
        # About 7 units for a character; the label is to the left of the dot where the page ends.
        from[r] = px[r] + 10
        if (from[r] + 7 * length(label) > 880) from[r] = px[r] - 10 - 7 * length(label)
        to[r] = from[r] + 7 * length(label)
        place[r] = int(py[r] + 4.5) # whole, so that a distance of 15 is one
        for (moved = 1; moved;) {
            moved = 0
            for (q = 1; q < r; q++)
                if (q in place && abs(place[q] - place[r]) < 15 &&
                    from[q] < to[r] && from[r] < to[q]) {
                    place[r] = place[q] + 15
                    moved = 1
                }
        }
        out(sprintf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"var(--dot)\">" \
                    "<title>%s: %d, %.1f tokens/s</title></circle>",
                    px[r], py[r], esc(title(r)), total[r], decode_n[r] / decode_s[r]))
        right = from[r] > px[r]
        out(sprintf("<text x=\"%.1f\" y=\"%d\"%s>%s &#160;%s</text>",
                    right ? px[r] + 10 : px[r] - 10, place[r],
                    right ? "" : " text-anchor=\"end\"", letter(r) star(r), esc(shorten(title(r)))))
    }
    out("</svg></div>")
}

function page_figures(    r, line) {
    out("<h2>Figures</h2><div class=\"wide\"><table><tr><th></th>")
    for (r = 1; r <= R; r++) out("<th>" letter(r) "</th>")
    out("</tr>")
    for (line = 1; line <= 7; line++) {
        out("<tr><td>" summary_name(line) "</td>")
        for (r = 1; r <= R; r++) out("<td>" summary(line, r) "</td>")
        out("</tr>")
    }
    out("</table></div>")
}

function page_pairs(    a, b) {
    if (!n_pairs) return
    out("<h2>Is a difference more than chance?</h2>" \
        "<p>Votes are compared task by task. p is the share of all changes of sign " \
        "that give a difference at least as large, if both runs were alike " \
        "(exact permutation test); in brackets that of the sign test." \
        (n_pairs > 1 ? " " pairs_note() : "") "</p>")
    out("<div class=\"wide\"><table><tr><th>pair</th><th>difference</th><th>tasks</th>" \
        "<th>better</th><th>worse</th><th>p</th><th></th></tr>")
    for (a = 1; a <= R; a++) for (b = a + 1; b <= R; b++) if (votes[a] && votes[b]) {
        compare(a, b)
        out(sprintf("<tr><td>%s - %s</td><td>%+d</td><td>%d</td><td>%d</td><td>%d</td>" \
                    "<td>%s (%s)</td><td class=\"text\">%s</td></tr>",
                    letter(a), letter(b), pair_sum, pair_n, pair_wins, pair_losses,
                    p_text(pair_p), p_text(pair_sign), verdict(a, b)))
    }
    out("</table></div>")
}

function page_remarks(    r, t, name) {
    if (!n_remarks) return
    out("<h2>Remarks</h2><div class=\"wide\"><table><tr><th>task</th><th>run</th><th>score</th>" \
        "<th class=\"remark\">remark</th></tr>")
    for (t = 1; t <= T; t++) {
        if (!(t in remarked)) continue
        name = t " &nbsp; " esc(shorten(task_name[t]))
        for (r = 1; r <= R; r++) if ((r, t) in remark) {
            out("<tr><td>" name "</td><td>" letter(r) "</td><td>" score(r, t) "</td>" \
                "<td class=\"remark\">" esc(remark[r, t]) "</td></tr>")
            name = ""
        }
    }
    out("</table></div>")
}

function report() {
    if (!R) {
        print "run_bench: no run to report" >"/dev/stderr"
        exit 1
    }
    count_pairs()
    report_text()
    page_head()
    page_runs()
    page_grid()
    page_speed()
    page_figures()
    page_pairs()
    page_remarks()
    if (n_repeats) out("<p>" esc(repeat_line()) "</p>")
    out("</body></html>")
    if (close(html) != 0) exit 1
}
