//! `godctl up`: runs the configured parts under one supervisor, or writes systemd units that do the same.
//!
//! `command` holds the flags, `parts` turns the configuration into command lines, `supervise` decides (pure), `runner`
//! carries out, `process` owns one child, `output` prefixes lines, `report` tells the bus, `units` writes systemd units.

mod supervise;
