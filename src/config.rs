//! One typed configuration: defaults < file < environment < flags.
