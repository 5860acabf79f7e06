mod whisper;
