//! Tests of the bus in a file, over real files. Two handles stand for two processes.
