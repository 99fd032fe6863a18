// Files for the user: the coupon as a text, the opening as an entry of their calendar.

/** Offers a file for download. */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const anchor = Object.assign(document.createElement("a"), { href: url, download: name });
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** An iCalendar file (RFC 5545) with one event at `opens_at`, and a reminder 10 minutes before. */
export function calendar({ id, opens_at, summary, url, now = Date.now() }) {
  const stamp = (ms) => new Date(ms).toISOString().replace(/[-:]|\.\d+/g, "");
  const escape = (text) => text.replace(/[\\;,]/g, "\\$&").replace(/\r?\n/g, "\\n");
  const lines = [
    "BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//dropgate//drop page//EN",
    "BEGIN:VEVENT",
    `UID:${id}@${new URL(url).host}`, `DTSTAMP:${stamp(now)}`, `DTSTART:${stamp(opens_at)}`, `DTEND:${stamp(opens_at + 900_000)}`,
    `SUMMARY:${escape(summary)}`, `URL:${url}`, `DESCRIPTION:${escape(url)}`,
    "BEGIN:VALARM", "ACTION:DISPLAY", `DESCRIPTION:${escape(summary)}`, "TRIGGER:-PT10M", "END:VALARM",
    "END:VEVENT", "END:VCALENDAR",
  ];
  return lines.map(fold).join("\r\n") + "\r\n";
}

/** A line has at most 75 bytes; the next one continues it after a space. */
function fold(line) {
  const parts = [""];
  let bytes = 0;
  for (const char of line) {
    const more = new TextEncoder().encode(char).length;
    if (bytes + more > 75) {
      parts.push(" ");
      bytes = 1;
    }
    parts[parts.length - 1] += char;
    bytes += more;
  }
  return parts.join("\r\n");
}
