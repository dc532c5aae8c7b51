"""The methods that the paper compares with: MAX, MAXA, mi-SVM, MI-SVM, MI-Net."""
