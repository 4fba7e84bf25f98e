"""What goes over the wire between processes: keys, fields, entries, findings and consumer groups. Pure."""
