"""What several files of tests share: scenes, stand-ins, servers, ways to kill."""
