

mod audio;
