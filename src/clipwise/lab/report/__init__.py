"""What is shown: tables, the picture, the page, and the files they are saved in."""
